//! Thousands of starts in a world without a runtime, and single messages where the world is too coarse.

use super::world::{Faults, World};
use super::*;

const CALM: Faults = Faults {
    loss: 0,
    partitions: false,
    crashes: false,
    durable: false,
};

/// Runs with faults, then without until one cluster holds all nodes; or says what went wrong.
fn outcome(seed: u64, count: usize, expect: u16, faults: Faults) -> Result<World, String> {
    let mut world = World::new(seed, &vec![expect; count], faults);
    world.run(4_000, true);
    world.run(12_000, false);
    let formed = world.has_formed();
    match world.violation.take() {
        None if formed => Ok(world),
        violation => Err(format!(
            "seed {seed}, {count} nodes, expect {expect}, {faults:?}: {}\n{}",
            violation.unwrap_or("no cluster".to_owned()),
            world.describe()
        )),
    }
}

fn run(seed: u64, count: usize, expect: u16, faults: Faults) -> World {
    outcome(seed, count, expect, faults).unwrap_or_else(|failure| panic!("{failure}"))
}

fn faults(seed: u64, partitions: bool, crashes: bool) -> Faults {
    Faults {
        loss: [0, 50, 200, 400][seed as usize % 4],
        partitions,
        crashes,
        durable: (seed / 4).is_multiple_of(2),
    }
}

#[test]
fn any_number_that_start_together_form_one_cluster() {
    for seed in 0..300 {
        let (count, expect) = [
            (1, 1),
            (3, 3),
            (5, 5),
            (9, 9),
            (9, 3),
            (9, 5),
            (5, 1),
            (3, 2),
        ][seed as usize % 8];
        let world = run(seed, count, expect, CALM);
        assert_eq!(world.founded(), 1, "seed {seed}");
    }
}

/// Every fault at once, where the module's argument holds without conditions: n < k + majority of k.
fn everything_at_once(seed: u64) -> Result<World, String> {
    let sizes = [
        (3, 3),
        (4, 3),
        (3, 2),
        (5, 4),
        (7, 5),
        (5, 5),
        (2, 2),
        (6, 4),
    ];
    let (count, expect) = sizes[seed as usize / 8 % 8];
    outcome(seed, count, expect, faults(seed, true, true))
}

#[test]
fn there_is_never_more_than_one_real_cluster() {
    let mut counters = Counters::default();
    for seed in 0..2_000 {
        let world = everything_at_once(seed).unwrap_or_else(|failure| panic!("{failure}"));
        counters.absorb(world.counters);
    }
    for name in [
        "bootstrap sets given up",
        "bootstrap promises lapsed",
        "bootstrap promises given back",
        "bootstrap members fenced",
        "own initialisations without a quorum",
        "bootstrap invitations refused",
    ] {
        assert!(counters.count(name) >= 50, "{name}: {counters:?}");
    }
}

#[cfg(funk_mutants)]
#[test]
fn the_world_sees_what_is_wrong() {
    use crate::mutants::{Mutant, set_mutant};
    for mutant in [
        Mutant::BootstrapPromiseIgnored,
        Mutant::BootstrapWithoutAllPromises,
    ] {
        set_mutant(Some(mutant));
        let fails = |seed| everything_at_once(seed).and(either_alone(seed)).err();
        let caught = (0..2_000).find_map(|seed| Some((seed, fails(seed)?)));
        set_mutant(None);
        let (seed, why) = caught.unwrap_or_else(|| panic!("{mutant:?} is not caught"));
        let why = why.lines().next().unwrap_or_default();
        eprintln!("{mutant:?} is caught after {} starts: {why}", seed + 1);
    }
}

/// With 2k > n it takes a crash and a partition together; either alone does no harm.
fn either_alone(seed: u64) -> Result<World, String> {
    let sizes = [(5, 3), (9, 5), (8, 5), (7, 4)];
    let (count, expect) = sizes[seed as usize / 8 % 4];
    let partitions = (seed / 32).is_multiple_of(2);
    outcome(seed, count, expect, faults(seed, partitions, !partitions))
}

#[test]
fn more_candidates_than_expected_form_one_cluster_and_join_it() {
    for seed in 0..800 {
        either_alone(seed).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// With few of many expected the candidates must see each other; loss and late starts do not matter.
#[test]
fn few_of_many_form_one_cluster_when_they_see_each_other() {
    for seed in 0..200 {
        let (count, expect) = [(9, 3), (6, 2), (9, 4), (4, 1)][seed as usize / 8 % 4];
        let mild = Faults {
            loss: 100,
            ..faults(seed, false, false)
        };
        run(seed, count, expect, mild);
    }
}

#[test]
fn candidates_that_expect_different_numbers_say_so_and_form_nothing() {
    let mut world = World::new(1, &[3, 3, 3, 1], CALM);
    world.run(10_000, false);
    assert_eq!(world.founded(), 0);
    assert_eq!(world.mismatches, 6, "each pair, on both sides, once");
}

#[test]
fn alone_without_seeds_starts_at_once_and_with_seeds_looks_first() {
    let mut world = World::new(1, &[1], CALM).without_seeds();
    world.run(155, false);
    assert_eq!(world.founded(), 1);
    let mut world = World::new(1, &[1], CALM);
    world.run(900, false);
    assert_eq!(world.founded(), 0);
    world.run(500, false);
    assert_eq!(world.founded(), 1);
}

#[test]
fn those_that_only_join_form_nothing() {
    let mut world = World::new(1, &[0, 0, 0], CALM);
    world.run(5_000, false);
    assert_eq!(world.founded(), 0);
    let mut world = World::new(1, &[0, 2, 0, 2], CALM);
    world.run(5_000, false);
    assert!(world.has_formed());
}

// Single messages.

fn view(n: u16, boot: u64) -> CandidateView {
    CandidateView {
        instance: Instance {
            node: NodeId::new(&format!("n{n}")).unwrap(),
            boot: BootId(boot),
        },
        addr: SocketAddr::from(([127, 0, 0, 1], n)),
        store: StoreId(u64::from(n)),
        expect: 3,
        is_present: true,
        is_voter: true,
    }
}

fn peer(view: &CandidateView) -> Peer {
    Peer {
        version: crate::versions::NEWEST,
        instance: view.instance.clone(),
        kind: crate::transport::PeerKind::Node,
        addr: view.addr,
    }
}

/// The machine of node `n` of three, all in sight, with the view settled.
fn machine(n: u16) -> Bootstrap {
    let me = view(n, 1);
    let config = BootstrapConfig {
        instance: me.instance,
        addr: me.addr,
        store: me.store,
        expect: 3,
        voters: 5,
        has_seeds: true,
        timing: Timing::lan(),
    };
    let rng = rand_chacha::rand_core::SeedableRng::seed_from_u64(u64::from(n));
    let mut machine = Bootstrap::new(config, rng, Time(0));
    let views = (1..=3).map(|n| (view(n, 1).instance.node, view(n, 1)));
    let views = BTreeMap::from_iter(views);
    machine.update(Time(0), &views, None);
    machine.update(Time(0) + Duration::from_secs(1), &views, None);
    machine
}

const NOW: Time = Time(1_000_000_000);

fn outputs(machine: &mut Bootstrap) -> Vec<BootstrapOutput> {
    std::iter::from_fn(|| machine.poll_output()).collect()
}

fn invites(machine: &mut Bootstrap) -> Vec<Invite> {
    let outputs = outputs(machine).into_iter();
    outputs
        .filter_map(|output| match output {
            BootstrapOutput::Send {
                message: BootstrapMessage::Invite(invite),
                ..
            } => Some(invite),
            _ => None,
        })
        .collect()
}

fn dropped(machine: &mut Bootstrap) -> u64 {
    machine.take_counters().count("bootstrap messages dropped")
}

#[test]
fn only_the_smallest_name_invites() {
    assert_eq!(invites(&mut machine(1)).len(), 2);
    assert_eq!(outputs(&mut machine(2)), []);
    assert_eq!(outputs(&mut machine(3)), []);
}

#[test]
fn a_promise_speaks_for_its_sender_only_and_the_set_starts_once() {
    let mut one = machine(1);
    let cluster = invites(&mut one)[0].cluster;
    let promise = |cluster| BootstrapMessage::Promise { cluster };
    one.handle_message(NOW, &peer(&view(2, 1)), promise(cluster));
    one.handle_message(NOW, &peer(&view(2, 1)), promise(cluster));
    one.handle_message(NOW, &peer(&view(3, 2)), promise(cluster));
    one.handle_message(NOW, &peer(&view(4, 1)), promise(cluster));
    one.handle_message(NOW, &peer(&view(3, 1)), promise(ClusterId(1)));
    assert_eq!(outputs(&mut one), []);
    assert_eq!(dropped(&mut one), 3);
    one.handle_message(NOW, &peer(&view(3, 1)), promise(cluster));
    one.handle_message(NOW, &peer(&view(3, 1)), promise(cluster));
    let members = (1..=3)
        .map(|n| (view(n, 1).raft_id(), view(n, 1).addr))
        .collect();
    let initialise = BootstrapOutput::Initialise { cluster, members };
    assert_eq!(outputs(&mut one), [initialise]);
    assert_eq!(one.promised_to(), Some(cluster));
}

#[test]
fn an_invitation_must_come_from_its_initiator_and_mean_this_run() {
    let invite = invites(&mut machine(1)).remove(0);
    let wrong: [fn(&mut Invite); 9] = [
        |invite| invite.boot = BootId(9),
        |invite| invite.addr.set_port(9),
        |invite| invite.members[1].store = StoreId(9),
        |invite| invite.members.reverse(),
        |invite| drop(invite.members.pop()),
        |invite| drop(invite.members.remove(0)),
        |invite| invite.members[2] = invite.members[1].clone(),
        |invite| invite.voters = 0,
        |invite| invite.voters = 4,
    ];
    let mut two = machine(2);
    for change in wrong {
        let mut invite = invite.clone();
        change(&mut invite);
        two.handle_message(NOW, &peer(&view(1, 1)), BootstrapMessage::Invite(invite));
        assert_eq!(outputs(&mut two), []);
        assert_eq!(dropped(&mut two), 1);
    }
    let message = BootstrapMessage::Invite(invite.clone());
    two.handle_message(NOW, &peer(&view(3, 1)), message.clone());
    assert_eq!(dropped(&mut two), 1);
    two.handle_message(NOW, &peer(&view(1, 2)), message.clone());
    assert_eq!(two.promised_to(), None, "a run that is not in sight yet");
    two.handle_message(NOW, &peer(&view(1, 1)), message);
    assert_eq!(two.promised_to(), Some(invite.cluster));
}

#[test]
fn a_promise_holds_until_its_initiator_gives_it_back() {
    let first = invites(&mut machine(1)).remove(0);
    let mut second = first.clone();
    second.cluster = ClusterId(2);
    let mut two = machine(2);
    let one = peer(&view(1, 1));
    two.handle_message(NOW, &one, BootstrapMessage::Invite(first.clone()));
    outputs(&mut two);
    two.handle_message(NOW, &one, BootstrapMessage::Invite(second.clone()));
    let refuse = BootstrapMessage::Refuse {
        cluster: second.cluster,
        reason: Refusal::Bound,
    };
    let sent: Vec<_> = outputs(&mut two);
    assert!(
        matches!(&sent[0], BootstrapOutput::Send { message, .. } if *message == refuse),
        "{sent:?}"
    );
    let void = |cluster| BootstrapMessage::Status {
        cluster,
        status: Status::Void,
    };
    two.handle_message(NOW, &peer(&view(3, 1)), void(first.cluster));
    two.handle_message(NOW, &peer(&view(1, 2)), void(first.cluster));
    two.handle_message(NOW, &one, void(second.cluster));
    assert_eq!(two.promised_to(), Some(first.cluster));
    two.handle_message(NOW, &one, void(first.cluster));
    assert_eq!(two.promised_to(), None);
}

/// The initiator came back as another run before it had asked everybody: who was asked is not bound for ever.
#[test]
fn a_promise_ends_when_a_member_was_never_asked() {
    let invite = invites(&mut machine(1)).remove(0);
    let cluster = invite.cluster;
    let mut two = machine(2);
    two.handle_message(NOW, &peer(&view(1, 1)), BootstrapMessage::Invite(invite));
    let mut three = machine(3);
    let initiator = view(1, 1).instance;
    let sight = |one: CandidateView| {
        let views = [one, view(2, 1), view(3, 1)];
        BTreeMap::from(views.map(|view| (view.instance.node.clone(), view)))
    };
    let absent = CandidateView {
        is_present: false,
        ..view(1, 1)
    };
    three.update(NOW, &sight(absent), None);
    assert_eq!(
        three.status_of(cluster, &initiator),
        Status::Uninitialised,
        "that run may come back and ask"
    );
    let later = CandidateView {
        store: StoreId(100),
        ..view(1, 2)
    };
    two.update(NOW, &sight(later.clone()), None);
    three.update(NOW, &sight(later), None);
    assert_eq!(two.status_of(cluster, &initiator), Status::Uninitialised);
    let status = three.status_of(cluster, &initiator);
    assert_eq!(status, Status::Unpromised);

    let message = BootstrapMessage::Status { cluster, status };
    for (stranger, why) in [
        (view(1, 2), "its store is not in the set"),
        (view(3, 2), "a run that is not in sight"),
        (view(4, 1), "no member"),
    ] {
        two.handle_message(NOW, &peer(&stranger), message.clone());
        assert_eq!(two.promised_to(), Some(cluster), "{why}");
    }
    two.handle_message(NOW, &peer(&view(3, 1)), message);
    assert_eq!(two.promised_to(), None);
}

#[test]
fn a_smaller_candidate_in_sight_is_waited_for() {
    let mut invite = invites(&mut machine(1)).remove(1);
    let mut three = machine(3);
    let views = (1..=4).map(|n| (view(n, 1).instance.node, view(n, 1)));
    three.update(NOW, &views.collect(), None);
    invite.members = vec![
        view(2, 1).raft_id(),
        view(3, 1).raft_id(),
        view(4, 1).raft_id(),
    ];
    let cluster = invite.cluster;
    three.handle_message(NOW, &peer(&view(2, 1)), BootstrapMessage::Invite(invite));
    let refuse = BootstrapMessage::Refuse {
        cluster,
        reason: Refusal::Smaller,
    };
    let sent = outputs(&mut three);
    assert!(
        matches!(&sent[..], [BootstrapOutput::Send { message, .. }] if *message == refuse),
        "{sent:?}"
    );
}

/// Otherwise the other members' older stores would seem to have replaced those in the set, and the promise void.
#[test]
fn nothing_is_promised_to_a_set_of_which_a_member_is_not_in_sight_as_it_is_in_the_set() {
    let invite = invites(&mut machine(1)).remove(0);
    let message = BootstrapMessage::Invite(invite.clone());
    let restarted = CandidateView {
        store: StoreId(100),
        ..view(3, 2)
    };
    for (third, why) in [(None, "unknown"), (Some(restarted), "with another store")] {
        let mut two = machine(2);
        let views = [Some(view(1, 1)), Some(view(2, 1)), third];
        let views = views.into_iter().flatten();
        let views = views.map(|view| (view.instance.node.clone(), view));
        two.update(NOW, &views.collect(), None);
        outputs(&mut two);
        two.handle_message(NOW, &peer(&view(1, 1)), message.clone());
        let refuse = BootstrapMessage::Refuse {
            cluster: invite.cluster,
            reason: Refusal::Unknown,
        };
        let sent = outputs(&mut two);
        assert!(
            matches!(&sent[..], [BootstrapOutput::Send { message, .. }] if *message == refuse),
            "{why}: {sent:?}"
        );
    }
}

#[test]
fn who_leaves_gives_its_set_up_and_promises_nothing() {
    let mut one = machine(1);
    let invite = invites(&mut one).remove(0);
    one.withdraw(NOW);
    assert_eq!(outputs(&mut one).len(), 2, "both members are told");
    assert_eq!(
        one.status_of(invite.cluster, &view(1, 1).instance),
        Status::Void
    );
    let mut two = machine(2);
    two.withdraw(NOW);
    two.handle_message(NOW, &peer(&view(1, 1)), BootstrapMessage::Invite(invite));
    assert_eq!(two.promised_to(), None);
}
