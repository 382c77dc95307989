//! What clusters go through.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn formed(seed: u64, count: usize) -> Net {
    let mut net = Net::started(seed, count);
    net.until(SECOND * 20, "all see all", Net::agree);
    net.run(SECOND * 5);
    net.until(SECOND * 20, "all still see all", Net::agree);
    net.clear_events();
    net
}

#[test]
fn nodes_that_know_one_address_find_each_other() {
    for seed in 0..8 {
        for count in [2, 3, 5, 9] {
            let mut net = Net::started(seed, count);
            net.until(SECOND * 10, "all see all", Net::agree);
            for at in net.nodes.keys().map(ToString::to_string) {
                for of in net.nodes.keys().map(ToString::to_string) {
                    let joins = net
                        .events(&at, &of)
                        .iter()
                        .filter(|e| **e == "joined")
                        .count();
                    assert_eq!(joins, usize::from(at != of), "seed {seed}: {at} about {of}");
                }
            }
        }
    }
}

#[test]
fn the_order_of_starting_and_a_late_seed_do_not_matter() {
    let mut net = Net::new(3);
    // Whoever asks for the first address finds nobody there for a while.
    net.start("n0", |_| {});
    net.crash("n0");
    for n in 1..4 {
        net.start(&format!("n{n}"), |_| {});
    }
    net.run(SECOND * 30);
    net.start("n0", |_| {});
    net.until(SECOND * 10, "all see all", Net::agree);
}

#[test]
fn a_node_that_crashes_failed_everywhere_and_left_nowhere() {
    for seed in 0..6 {
        let mut net = formed(seed, 5);
        net.crash("n3");
        net.until(SECOND * 10, "failed everywhere", |net| {
            ["n0", "n1", "n2", "n4"]
                .iter()
                .all(|at| net.state(at, "n3") == Some(MemberState::Failed))
        });
        net.run(SECOND * 5);
        for at in ["n0", "n1", "n2", "n4"] {
            assert_eq!(net.events(at, "n3"), ["failed"], "seed {seed}, at {at}");
        }
    }
}

#[test]
fn a_node_that_leaves_is_seen_leaving_and_then_left_and_never_failed() {
    for seed in 0..6 {
        let mut net = formed(seed, 5);
        net.with("n3", |n3, now| n3.announce_leaving(now));
        net.until(SECOND * 3, "leaving everywhere", |net| {
            let others = ["n0", "n1", "n2", "n4"];
            others
                .iter()
                .all(|at| net.state(at, "n3") == Some(MemberState::Leaving))
        });
        assert_eq!(net.state("n3", "n3"), Some(MemberState::Leaving));
        net.run(SECOND * 2);
        net.with("n3", |n3, now| n3.leave(now));
        net.crash("n3");
        net.until(
            SECOND,
            "left everywhere, without waiting for suspicion",
            |net| {
                let others = ["n0", "n1", "n2", "n4"];
                others
                    .iter()
                    .all(|at| net.state(at, "n3") == Some(MemberState::Left))
            },
        );
        net.run(SECOND * 5);
        for at in ["n0", "n1", "n2", "n4"] {
            assert_eq!(
                net.events(at, "n3"),
                ["updated", "left"],
                "seed {seed}, at {at}"
            );
        }
    }
}

#[test]
fn a_node_that_leaves_without_announcing_it_left_too() {
    let mut net = formed(1, 5);
    net.with("n2", |n2, now| n2.leave(now));
    net.crash("n2");
    net.run(SECOND * 5);
    for at in ["n0", "n1", "n3", "n4"] {
        assert_eq!(net.state(at, "n2"), Some(MemberState::Left));
        assert!(!net.events(at, "n2").contains(&"failed"));
    }
}

#[test]
fn a_node_that_left_may_come_back_as_another_run() {
    let mut net = formed(1, 4);
    net.with("n2", |n2, now| n2.leave(now));
    net.run(SECOND);
    net.start("n2", |_| {});
    net.until(SECOND * 5, "all see the new run", Net::agree);
    net.run(SECOND * 20);
    assert!(net.agree());
    for at in ["n0", "n1", "n3"] {
        let mut events = net.events(at, "n2");
        events.retain(|event| *event != "updated");
        assert_eq!(events, ["left", "joined"], "at {at}");
    }
}

#[test]
fn a_node_that_dies_while_it_leaves_left_and_did_not_fail() {
    let mut net = formed(1, 4);
    net.with("n2", |n2, now| n2.announce_leaving(now));
    net.run(SECOND);
    net.crash("n2");
    net.run(SECOND * 10);
    for at in ["n0", "n1", "n3"] {
        assert_eq!(net.events(at, "n2"), ["updated", "left"], "at {at}");
    }
}

#[test]
fn bad_links_alone_make_nobody_fail() {
    let mut net = Net::new(9);
    (net.loss, net.twice, net.delay) = (20, 20, Duration::from_millis(60));
    for n in 0..5 {
        net.start(&format!("n{n}"), |_| {});
    }
    net.until(SECOND * 20, "all see all", Net::agree);
    net.clear_events();
    net.run(MINUTE * 10);
    for (at, of) in [("n0", "n1"), ("n1", "n2"), ("n3", "n0"), ("n4", "n3")] {
        assert_eq!(net.events(at, of), [] as [&str; 0], "{at} about {of}");
    }
}

#[test]
fn a_node_that_left_and_is_still_driven_tells_whoever_asks_and_then_is_silent() {
    let mut net = formed(1, 3);
    net.loss = 100;
    net.with("n2", |n2, now| n2.leave(now));
    net.run(SECOND / 2);
    net.loss = 0;
    net.until(SECOND * 2, "left", |net| {
        ["n0", "n1"]
            .iter()
            .all(|at| net.state(at, "n2") == Some(MemberState::Left))
    });
    net.run(MINUTE);
    let n2 = &net.nodes[&node_id("n2")].machine;
    assert_eq!(n2.poll_timeout(), None);
    assert_eq!(n2.members()[&node_id("n2")].state, MemberState::Left);
    assert_eq!(net.state("n0", "n2"), Some(MemberState::Left));
}

#[test]
fn a_restarted_node_joins_at_once_as_another_run() {
    for seed in 0..6 {
        let mut net = formed(seed, 5);
        net.crash("n3");
        net.run(SECOND / 10);
        net.start("n3", |_| {});
        let took = net.until(SECOND * 3, "all see the new run", Net::agree);
        assert!(took < SECOND * 3, "{took:?}");
        net.run(SECOND * 5);
        for at in ["n0", "n1", "n2", "n4"] {
            let events = net.events(at, "n3");
            assert_eq!(events[0], "joined", "seed {seed}: {events:?}");
            assert!(!events.contains(&"failed"), "seed {seed}: {events:?}");
        }
    }
}

#[test]
fn a_restarted_node_is_taken_back_without_seeds_when_others_speak_to_its_former_run() {
    let mut net = formed(2, 3);
    net.crash("n0");
    // n0 is its own seed: it has nobody to ask.
    net.start("n0", |_| {});
    net.until(SECOND * 3, "all see the new run", Net::agree);
}

#[test]
fn a_failed_node_may_come_back_as_another_run() {
    let mut net = formed(1, 4);
    net.crash("n2");
    net.run(SECOND * 10);
    assert_eq!(net.state("n0", "n2"), Some(MemberState::Failed));
    net.start("n2", |_| {});
    net.until(SECOND * 5, "all see the new run", Net::agree);
    assert_eq!(net.events("n0", "n2")[..2], ["failed", "joined"]);
}

fn split(net: &mut Net, right: &[&str]) {
    for (id, node) in &mut net.nodes {
        node.side = u8::from(right.contains(&id.as_str()));
    }
}

#[test]
fn halves_of_a_long_partition_become_one_membership_again() {
    for (seed, minutes) in [(0, 1), (1, 10), (2, 10), (3, 15)] {
        let mut net = formed(seed, 6);
        split(&mut net, &["n3", "n4", "n5"]);
        net.until(SECOND * 20, "each half is a membership", Net::agree);
        net.run(MINUTE * minutes);
        assert!(net.agree());
        if minutes >= 10 {
            assert_eq!(net.state("n0", "n4"), None, "stale members are not shown");
        }
        net.clear_events();
        split(&mut net, &[]);
        net.until(SECOND * 20, "one membership", Net::agree);
        net.run(MINUTE);
        assert!(net.agree(), "{}", net.view());
        for (at, of) in [("n0", "n4"), ("n5", "n1")] {
            let events = net.events(at, of);
            assert!(events.contains(&"joined"), "{at} about {of}: {events:?}");
        }
    }
}

#[test]
fn one_node_cut_off_for_long_is_taken_back_and_so_is_everybody_by_it() {
    for (seed, alone) in [(0, "n0"), (1, "n2")] {
        let mut net = formed(seed, 5);
        split(&mut net, &[alone]);
        net.run(MINUTE * 10);
        assert!(net.agree());
        split(&mut net, &[]);
        net.until(SECOND * 20, "one membership", Net::agree);
    }
}

#[test]
fn halves_find_each_other_through_failed_members_when_the_seed_is_gone() {
    let mut net = formed(1, 6);
    net.crash("n0");
    split(&mut net, &["n4", "n5"]);
    net.run(MINUTE * 10);
    assert!(net.agree());
    split(&mut net, &[]);
    net.until(SECOND * 20, "one membership", Net::agree);
}

#[test]
fn halves_find_each_other_through_seeds_when_all_else_is_forgotten() {
    let mut net = formed(1, 4);
    split(&mut net, &["n2", "n3"]);
    net.run(MINUTE * 60);
    let n3 = &net.nodes[&node_id("n3")].machine;
    assert_eq!(n3.known.len(), 1, "only the mate is remembered");
    split(&mut net, &[]);
    net.until(SECOND * 20, "one membership", Net::agree);
}

#[test]
fn dead_members_are_shown_for_stale_after_and_then_neither_shown_nor_resurrected() {
    let mut net = formed(1, 4);
    net.crash("n2");
    net.run(MINUTE * 4);
    assert_eq!(net.state("n0", "n2"), Some(MemberState::Failed));
    net.run(MINUTE * 2);
    assert_eq!(net.state("n0", "n2"), None);
    net.run(MINUTE * 40);
    for at in ["n0", "n1", "n3"] {
        assert_eq!(net.events(at, "n2"), ["failed"]);
        assert_eq!(net.nodes[&node_id(at)].machine.known.len(), 2);
    }
    net.start("n2", |_| {});
    net.until(SECOND * 5, "all see the new run", Net::agree);
    assert_eq!(net.events("n1", "n2")[..2], ["failed", "joined"]);
}

#[test]
fn a_suspect_that_answers_is_cleared_and_was_never_failed() {
    let mut net = formed(4, 4);
    let others = ["n0", "n1", "n3"];
    // Long enough to be suspected, too short to be given up.
    split(&mut net, &["n2"]);
    net.until(SECOND * 5, "suspected", |net| {
        others
            .iter()
            .any(|at| net.state(at, "n2") == Some(MemberState::Suspect))
    });
    split(&mut net, &[]);
    net.until(SECOND * 3, "cleared", Net::agree);
    net.run(SECOND * 5);
    for at in others {
        assert_eq!(net.events(at, "n2"), [] as [&str; 0], "at {at}");
    }
}

#[test]
fn a_node_that_stood_still_does_not_call_others_dead() {
    let mut net = formed(4, 4);
    // Its timers and its mail wait; the network goes on.
    net.nodes.get_mut(&node_id("n2")).unwrap().up = false;
    net.run(SECOND * 3);
    net.nodes.get_mut(&node_id("n2")).unwrap().up = true;
    net.until(SECOND * 10, "taken back", Net::agree);
    let events: Vec<_> = ["n0", "n1", "n3"]
        .iter()
        .flat_map(|of| net.events("n2", of))
        .collect();
    assert!(!events.contains(&"failed"), "{events:?}");
}

#[test]
fn who_joins_late_learns_the_tags_of_all() {
    let mut net = formed(1, 6);
    for n in 0..6 {
        let tags = tag("ep.http", &format!("10.0.0.{n}:80"));
        net.with(&format!("n{n}"), |node, now| node.set_tags(now, tags));
    }
    net.until(SECOND * 5, "new tags everywhere", Net::agree);
    net.run(MINUTE * 3);
    net.start("late", |_| {});
    net.until(SECOND * 10, "late knows all", Net::agree);
    let member = net.member("late", "n4").unwrap();
    assert_eq!(member.tags.endpoint("http"), Some("10.0.0.4:80"));
    assert_eq!(net.events("late", "n4"), ["joined", "updated"]);
}

#[test]
fn pulls_that_fail_are_tried_again_less_and_less_often() {
    let mut net = formed(1, 3);
    net.pulls_fail = true;
    let before = net.nodes[&node_id("n1")].pulls;
    net.with("n0", |n0, now| n0.set_tags(now, tag("a", "1")));
    net.run(MINUTE);
    let tries = net.nodes[&node_id("n1")].pulls - before;
    assert!((5..=12).contains(&tries), "{tries} tries in a minute");
    net.pulls_fail = false;
    net.until(SECOND * 40, "pulled at last", Net::agree);
}

#[test]
fn tags_that_change_all_the_time_end_the_same_everywhere() {
    for seed in 0..4 {
        let mut net = formed(seed, 5);
        for round in 0..100 {
            for name in ["n1", "n3"] {
                let tags = tag("round", &round.to_string());
                net.with(name, |node, now| node.set_tags(now, tags));
            }
            net.run(Duration::from_millis(23));
        }
        net.until(SECOND * 5, "the last tags everywhere", Net::agree);
        let all = ["n0", "n1", "n2", "n3", "n4"];
        for (at, of) in all.iter().flat_map(|at| all.map(|of| (*at, of))) {
            let events = net.events(at, of);
            assert!(
                events.iter().all(|e| *e == "updated"),
                "{at} about {of}: {events:?}"
            );
        }
    }
}

#[test]
fn tags_taken_away_are_gone_everywhere() {
    let mut net = formed(1, 3);
    net.with("n1", |n1, now| n1.set_tags(now, Tags::new()));
    net.until(SECOND * 5, "gone", Net::agree);
    assert!(net.member("n2", "n1").unwrap().tags.is_empty());
}

#[test]
fn a_new_store_is_told_to_all() {
    let mut net = formed(1, 4);
    net.with("n1", |n1, now| n1.set_store(now, StoreId(0xabc)));
    net.until(SECOND * 3, "told", Net::agree);
    assert_eq!(net.member("n3", "n1").unwrap().store, StoreId(0xabc));
    assert_eq!(net.events("n3", "n1"), ["updated"]);
}

#[test]
fn many_nodes_with_long_names_agree_and_no_packet_is_too_large() {
    let mut net = Net::new(1);
    net.loss = 1;
    for n in 0..60 {
        let name = format!("{n:03}{}", "x".repeat(60));
        net.start(&name, |config| config.expect = 60);
    }
    net.until(SECOND * 40, "all see all", Net::agree);
    assert!(net.largest <= MAX_GOSSIP_BYTES, "{}", net.largest);
    assert!(
        net.largest > MAX_GOSSIP_BYTES - 200,
        "packets are not filled: {}",
        net.largest
    );
}

#[test]
fn a_cluster_id_reaches_who_has_none() {
    let mut net = formed(1, 4);
    net.with("n1", |n1, _| n1.set_cluster(ClusterId(77)));
    net.until(SECOND * 3, "heard", |net| {
        let heard = |at: &str| net.nodes[&node_id(at)].machine.heard_cluster();
        ["n0", "n2", "n3"]
            .iter()
            .all(|at| heard(at) == Some(ClusterId(77)))
    });
    net.start("late", |_| {});
    net.until(SECOND * 5, "late too", |net| {
        net.nodes[&node_id("late")].machine.heard_cluster() == Some(ClusterId(77))
    });
    net.crash("n1");
    net.until(SECOND * 10, "who is gone reports nothing", |net| {
        net.nodes[&node_id("n0")].machine.heard_cluster().is_none()
    });
}

#[test]
fn clusters_of_one_name_and_two_ids_report_each_other_and_do_not_mix() {
    let mut net = Net::started(1, 3);
    net.until(SECOND * 10, "all see all", Net::agree);
    net.new_side = 1;
    for name in ["n3", "n4"] {
        net.start(name, |_| {});
    }
    let n3 = net.addr_of("n3");
    net.with("n4", |n4, now| {
        n4.join(now, &[n3, SocketAddr::from(([10, 0, 0, 1], 7000))])
    });
    net.until(SECOND * 10, "two memberships", Net::agree);
    for (name, cluster) in [("n0", 1), ("n1", 1), ("n2", 1), ("n3", 2), ("n4", 2)] {
        net.with(name, |node, _| node.set_cluster(ClusterId(cluster)));
    }
    net.run(SECOND * 5);
    net.nodes.values_mut().for_each(|node| node.side = 0);
    net.run(MINUTE);
    let foreign = |name: &str| net.nodes[&node_id(name)].foreign.clone();
    assert!(
        foreign("n0").contains(&(node_id("n4"), ClusterId(2))),
        "{:?}",
        foreign("n0")
    );
    assert!(
        foreign("n4").contains(&(node_id("n0"), ClusterId(1))),
        "both sides are told"
    );
    assert!(foreign("n0").len() < 40, "reports are not a flood");
    for (at, of) in [
        ("n0", "n3"),
        ("n0", "n4"),
        ("n1", "n3"),
        ("n3", "n1"),
        ("n4", "n0"),
    ] {
        assert_eq!(net.state(at, of), None, "{at} about {of}");
    }
    assert_eq!(net.state("n0", "n2"), Some(MemberState::Alive));
    assert_eq!(net.state("n3", "n4"), Some(MemberState::Alive));
}

#[test]
fn members_that_turn_out_to_belong_to_another_cluster_are_not_members_any_more() {
    let mut net = formed(1, 4);
    for (name, cluster) in [("n0", 1), ("n1", 1), ("n2", 2), ("n3", 2)] {
        net.with(name, |node, _| node.set_cluster(ClusterId(cluster)));
    }
    net.run(SECOND * 20);
    for (at, of) in [("n0", "n2"), ("n1", "n3"), ("n2", "n1"), ("n3", "n0")] {
        let state = net.state(at, of);
        assert!(
            state.is_none_or(|state| !state.is_there()),
            "{at} about {of}: {state:?}"
        );
    }
    assert_eq!(net.state("n0", "n1"), Some(MemberState::Alive));
    assert_eq!(net.state("n2", "n3"), Some(MemberState::Alive));
    // One side gives up what it has and joins the other.
    for name in ["n2", "n3"] {
        net.with(name, |node, now| node.set_store(now, StoreId(9)));
    }
    net.until(SECOND * 20, "one membership", Net::agree);
    assert_eq!(
        net.nodes[&node_id("n3")].machine.heard_cluster(),
        Some(ClusterId(1))
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let mut net = Net::started(seed, 5);
        net.run(SECOND * 5);
        net.crash("n1");
        net.run(SECOND * 10);
        let events: Vec<_> = net.nodes.values().map(|node| node.events.clone()).collect();
        (net.sent, events)
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5).0, trace(6).0);
}
