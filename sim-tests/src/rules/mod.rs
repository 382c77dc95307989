//! Each rule of the protocol as a script on real engines, or on what their log applies to and is kept by; deliberate faults are
//! tried on them. Most rules about the raft configuration (M0 to M3) and about values (P2, the epochs) are tested where they
//! are decided, in the library.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::invariants::{Verdict, Violation};

mod bench;
mod bootstrap;
mod durable;
mod eligible;
mod leases;
mod log;
mod membership;
mod serving;
mod steps;

/// A script.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name: the rule, and what is shown of it.
    pub name: &'static str,
    script: fn(),
}

impl Rule {
    /// Plays it. Whatever does not hold panics in it.
    pub fn play(&self) -> Verdict {
        let played = catch_unwind(AssertUnwindSafe(self.script));
        played.map_err(|panic| Violation::new(self.name, crate::panic_text(panic.as_ref())))
    }
}

/// Lists the scripts of each file, and makes a test of each.
macro_rules! rules {
    ($($file:ident: $($name:ident),+;)+) => {
        /// All of them.
        pub const ALL: &[Rule] = &[
            $($(Rule { name: stringify!($name), script: $file::$name },)+)+
        ];

        #[cfg(test)]
        mod tests {
            $($(
                #[test]
                fn $name() {
                    super::$file::$name();
                }
            )+)+
        }
    };
}

rules! {
    bootstrap: b1_a_candidate_is_promised_to_one_set_at_a_time,
        b3_a_leader_of_what_came_to_nothing_leads_the_next_cluster;
    durable: checksums_are_compared,
        directories_are_synchronised,
        snapshots_hold_the_configuration;
    eligible: m9_a_cordoned_node_keeps_what_it_has_and_gets_nothing,
        m9_a_cordoned_node_that_dies_keeps_nothing,
        m9_a_drained_node_loses_all_at_once_and_stays_a_member,
        m9_cordons_outlive_leaders_and_runs,
        m9_what_all_are_kept_from_stays_where_it_is,
        m9_a_cordon_ends_with_its_node,
        m10_a_node_that_is_not_ready_for_long_loses_its_shards_until_it_is,
        m10_if_nobody_is_ready_shards_stay_served,
        m11_a_node_that_came_and_went_too_often_waits_longer_and_longer,
        m11_who_is_needed_does_not_wait;
    leases: l0_a_clock_jump_ends_every_lease,
        l1_a_grant_is_refused_from_an_older_term_for_another_run_and_for_a_stamp_not_taken_yet,
        l1_a_grant_counts_once_its_map_is_applied,
        l1_a_new_leader_keeps_what_it_was_granted_for_b_at_most,
        l1_a_new_ready_leader_pings_at_once,
        l2_a_silent_node_is_excused_once_its_lease_has_lapsed_on_any_clock,
        l3_without_a_quorum_nothing_is_granted_and_the_leader_serves_nothing,
        l3_q_is_what_raft_says_of_this_term_only,
        l4_a_new_leader_takes_every_node_for_leased_and_its_predecessor_for_serving_itself,
        l5_a_node_that_lags_is_excused_and_gets_no_grant_before_the_map_without_it_is_in_force,
        l5_a_node_that_answers_again_before_it_is_excused_keeps_its_lease,
        l6_a_leader_without_a_quorum_stops_acting;
    log: p1_a_leader_does_nothing_before_it_has_applied_its_own_entry,
        p1_a_commit_decided_in_another_term_is_void,
        p2_a_proposal_that_is_not_the_latest_cannot_come_into_force,
        p2_new_triggers_wait_while_a_proposal_is_pending,
        p3_a_snapshot_closes_what_its_pending_proposal_takes,
        p4_a_node_that_does_not_drain_delays_only_its_own_shards_and_is_asked_again,
        p4_a_pin_ends_when_its_owner_is_gone,
        p4_a_node_that_holds_on_to_what_it_lost_long_ago_does_not_hold_up_the_others,
        p5_a_new_leader_supersedes_what_it_finds_pending,
        i3_an_entry_under_an_older_token_has_no_effect,
        v1_the_version_rises_once_every_member_and_owner_speaks_it;
    membership: m1_a_refused_change_is_asked_for_again_but_not_at_once,
        m2_a_voter_that_leaves_stays_where_the_others_alone_would_be_no_quorum,
        m4_deaths_within_the_settling_time_become_one_map,
        m5_a_node_that_leaves_is_drained_removed_and_dismissed,
        m5_a_leader_that_leaves_gives_its_shards_away_and_then_leadership,
        m5_the_last_node_may_leave_alone;
    serving: s1_s2_what_a_proposal_takes_is_closed_at_once_and_acknowledged_when_it_has_drained,
        s1_what_a_void_proposal_took_comes_back_through_acquire,
        s2_no_ack_while_what_an_earlier_step_took_is_draining,
        s3_what_was_taken_while_acquire_ran_is_not_opened,
        s3_acquire_waits_until_the_same_shard_is_released,
        s4_nothing_is_served_past_the_lease,
        s5_a_restarted_node_serves_nothing_until_a_map_names_its_new_run,
        s6_a_lease_after_a_lapse_is_another_one,
        unmoved_shards_never_pause,
        a_leader_that_raft_hears_is_not_given_up_for_a_doubt_of_gossip;
    steps: without_a_budget_all_move_at_once,
        m8_a_join_moves_so_many_shards_at_a_time,
        m8_the_next_step_waits_until_what_moved_is_served,
        m8_a_hook_that_never_ends_does_not_hold_up_the_others_for_ever,
        m8_what_must_move_is_not_held_back,
        m8_a_death_in_the_middle_of_a_change_in_steps,
        m8_a_new_leader_goes_on_with_the_steps,
        the_load_follows_the_capacities_that_gossip_tells,
        weights_come_with_the_next_map_and_stay;
}
