//! Bytes from somebody who means ill, or is confused.

use super::*;
use foca::Member as SwimMember;
use foca::State;

fn peer(identity: &Identity) -> Peer {
    Peer {
        version: crate::versions::NEWEST,
        instance: identity.instance(),
        kind: crate::transport::PeerKind::Node,
        addr: identity.profile.addr,
    }
}

fn gossip(machine: &Membership, src: &Identity, message: Message<Identity>) -> Packet {
    Packet::Swim(Box::new(SwimMessage {
        header: Header {
            src: src.clone(),
            src_incarnation: 0,
            dst: machine.swim.identity().clone(),
            message,
        },
        members: Vec::new(),
    }))
}

fn deliver(machine: &mut Membership, src: &Identity, packet: &Packet) {
    let bytes = machine.digest.encode(packet);
    machine.handle_gossip(Time(1), &peer(src), &bytes);
}

fn names(machine: &Membership) -> Vec<&str> {
    machine.members().keys().map(NodeId::as_str).collect()
}

#[test]
fn who_claims_anothers_name_or_run_is_not_believed() {
    let mut me = machine("me", 1);
    let src = identity::identity("a", 1, 0);
    let packet = Packet::Join(src.clone());
    for claimed in [identity::identity("b", 1, 0), identity::identity("a", 2, 0)] {
        let bytes = me.digest.encode(&packet);
        me.handle_gossip(Time(1), &peer(&claimed), &bytes);
    }
    assert_eq!(me.counters().count("gossip with a claimed sender"), 2);
    assert_eq!(names(&me), ["me"]);
    assert!(me.poll_output().is_none());
}

#[test]
fn another_cluster_name_is_refused_and_counted() {
    let mut me = machine("me", 1);
    let src = identity::identity("a", 1, 0);
    let other = NameDigest::of(&ClusterName::new("other").unwrap());
    let bytes = other.encode(&Packet::Join(src.clone()));
    me.handle_gossip(Time(1), &peer(&src), &bytes);
    assert_eq!(me.counters().count("gossip of another cluster name"), 1);
    assert_eq!(names(&me), ["me"]);
}

#[test]
fn another_run_of_this_node_is_neither_believed_nor_declared_dead() {
    let mut me = machine("me", 1);
    let src = identity::identity("a", 1, 0);
    let newer = identity::identity("me", 5, 0);
    let Packet::Swim(mut message) = gossip(&me, &src, Message::Gossip) else {
        unreachable!()
    };
    message.members = vec![SwimMember::alive(newer.clone())];
    deliver(&mut me, &src, &Packet::Swim(message));
    assert_eq!(
        me.counters().count("gossip about another run of this node"),
        1
    );
    let newer_itself = Packet::Join(newer.clone());
    deliver(&mut me, &newer, &newer_itself);
    assert_eq!(me.counters().count("gossip of another run of this node"), 1);
    assert_eq!(names(&me), ["a", "me"]);
    assert_eq!(me.members()[&node_id("me")].state, MemberState::Alive);
    assert!(
        me.swim
            .states()
            .all(|member| member.id().node != node_id("me"))
    );
}

#[test]
fn a_node_that_is_declared_dead_says_at_once_that_it_lives() {
    let mut me = machine("me", 1);
    let src = identity::identity("a", 1, 0);
    let before = me.swim.identity().clone();
    let undead = gossip(&me, &src, Message::TurnUndead);
    deliver(&mut me, &src, &undead);
    assert_eq!(me.swim.identity().generation, before.generation + 1);
    // The same sentence about the former self changes nothing, but the sender is told.
    while me.poll_output().is_some() {}
    deliver(&mut me, &src, &undead);
    assert_eq!(me.swim.identity().generation, before.generation + 1);
    let Some(MembershipOutput::Send { payload, .. }) = me.poll_output() else {
        panic!("no answer")
    };
    assert_eq!(
        me.digest.decode(&payload),
        Ok(Packet::Join(me.swim.identity().clone()))
    );
}

#[test]
fn the_table_of_members_is_bounded() {
    let mut me = machine("me", 1);
    let src = identity::identity("a", 1, 0);
    let mut n = 0;
    while n < MAX_KNOWN + 50 {
        let Packet::Swim(mut message) = gossip(&me, &src, Message::Gossip) else {
            unreachable!()
        };
        for _ in 0..15 {
            message.members.push(SwimMember::alive(identity::identity(
                &format!("f{n}"),
                1,
                0,
            )));
            n += 1;
        }
        deliver(&mut me, &src, &Packet::Swim(message));
    }
    assert!(me.known.len() <= MAX_KNOWN);
    assert!(me.known.len() > MAX_KNOWN - 20);
    assert!(me.counters().count("gossip about one member too many") > 0);
}

/// Sizes of all packets that a machine sends among 200 members whose answers it never hears.
fn sizes_among_200(name: impl Fn(usize) -> String, boot: impl Fn(usize) -> u64) -> Vec<usize> {
    let mut me = machine(&"m".repeat(63), 1);
    let id = |n: usize| identity::identity(&name(n), boot(n), 70);
    let src = id(0);
    for n in (1..200).step_by(2) {
        let Packet::Swim(mut message) = gossip(&me, &src, Message::Gossip) else {
            unreachable!()
        };
        message.members = vec![SwimMember::alive(id(n)), SwimMember::alive(id(n + 1))];
        deliver(&mut me, &src, &Packet::Swim(message));
    }
    let mut sizes = Vec::new();
    let mut now = Time(1);
    // News spread, members are probed, others asked to probe them, suspects asked and given up.
    while now < Time(20_000_000_000) {
        while let Some(output) = me.poll_output() {
            if let MembershipOutput::Send { payload, .. } = output {
                assert!(me.digest.decode(&payload).is_ok());
                sizes.push(payload.len());
            }
        }
        now = me.poll_timeout().unwrap();
        me.handle_timeout(now);
        let asked = Packet::Join(src.clone());
        deliver(&mut me, &src, &asked);
    }
    let failed = me.members().values();
    let failed = failed.filter(|member| member.state == MemberState::Failed);
    assert!(failed.count() > 10);
    assert_eq!(me.members().len(), 202);
    sizes
}

#[test]
fn no_packet_is_too_large_among_two_hundred_members_with_the_longest_names() {
    let sizes = sizes_among_200(|n| format!("{n:03}{}", "x".repeat(60)), |_| u64::MAX - 9);
    let largest = *sizes.iter().max().unwrap();
    assert!(
        sizes.len() > 500 && largest <= MAX_GOSSIP_BYTES,
        "{largest}"
    );
    assert!(
        largest > MAX_GOSSIP_BYTES - 150,
        "packets are not filled: {largest}"
    );
}

#[test]
fn packets_are_filled_to_the_last_byte_and_no_further() {
    let name = |n: usize| format!("n{n}{}", "x".repeat(n % 7));
    let sizes = sizes_among_200(name, |n| 1 << (7 * (n % 9)));
    assert_eq!(*sizes.iter().max().unwrap(), MAX_GOSSIP_BYTES);
}

#[test]
fn members_of_another_cluster_are_not_learnt_from_others_and_not_kept() {
    let mut me = machine("me", 1);
    let src = identity::identity("a", 1, 0);
    let mut foreigner = identity::identity("b", 1, 0);
    foreigner.profile.cluster = Some(ClusterId(2));
    let Packet::Swim(mut message) = gossip(&me, &src, Message::Gossip) else {
        unreachable!()
    };
    message.members = vec![SwimMember::alive(foreigner.clone())];
    // Without a cluster of its own a node believes it, and hears of that cluster.
    deliver(&mut me, &src, &Packet::Swim(message.clone()));
    assert_eq!(me.heard_cluster(), Some(ClusterId(2)));
    me.set_cluster(ClusterId(1));
    assert_eq!(me.members()[&node_id("b")].state, MemberState::Failed);
    assert_eq!(me.heard_cluster(), None);
    // Now it does not, though the other says that it came back.
    message.header.dst = me.swim.identity().clone();
    message.members = vec![SwimMember::alive(
        foreigner.successor(foreigner.profile.clone()).unwrap(),
    )];
    deliver(&mut me, &src, &Packet::Swim(message));
    assert_eq!(me.members()[&node_id("b")].state, MemberState::Failed);
    assert_eq!(me.counters().count("gossip about another cluster"), 1);
}

#[test]
fn a_member_that_went_over_to_another_cluster_is_refused_at_once_and_reported_now_and_then() {
    let mut me = machine("me", 1);
    let mut src = identity::identity("a", 1, 0);
    me.set_cluster(ClusterId(1));
    let join = Packet::Join(src.clone());
    deliver(&mut me, &src, &join);
    assert_eq!(me.members()[&node_id("a")].state, MemberState::Alive);
    src.generation += 1;
    src.profile.cluster = Some(ClusterId(2));
    let bytes = me.digest.encode(&Packet::Join(src.clone()));
    while me.poll_output().is_some() {}
    let mut reports = 0;
    let mut refusals = 0;
    for ms in (0..10_000).step_by(100) {
        me.handle_gossip(Time(1 + ms * 1_000_000), &peer(&src), &bytes);
        assert_eq!(me.members()[&node_id("a")].state, MemberState::Failed);
        while let Some(output) = me.poll_output() {
            match output {
                MembershipOutput::ForeignCluster { node, cluster } => {
                    assert_eq!((node, cluster), (node_id("a"), ClusterId(2)));
                    reports += 1;
                }
                MembershipOutput::Send { payload, .. } => {
                    let refusal = me.digest.decode(&payload);
                    refusals += u32::from(matches!(refusal, Ok(Packet::Refusal(_))));
                }
                _ => {}
            }
        }
    }
    assert_eq!((reports, refusals), (5, 5));
    assert_eq!(me.counters().count("gossip of another cluster"), 100);
}

#[test]
fn what_is_meant_for_a_later_run_of_this_node_is_not_answered_by_this_one() {
    let mut me = machine("me", 1);
    let src = identity::identity("a", 1, 0);
    let Packet::Swim(mut message) = gossip(&me, &src, Message::Ping(1)) else {
        unreachable!()
    };
    message.header.dst.boot = BootId(2);
    deliver(&mut me, &src, &Packet::Swim(message.clone()));
    assert_eq!(me.counters().count("gossip for another run"), 1);
    // It says only to its own node that a later run is about.
    let told: Vec<_> = std::iter::from_fn(|| me.poll_output()).collect();
    assert_eq!(told, [MembershipOutput::Superseded(BootId(2))]);
    // An earlier run's mail is: its sender learns of this run by the answer.
    message.header.dst.boot = BootId(0);
    deliver(&mut me, &src, &Packet::Swim(message));
    let answered = std::iter::from_fn(|| me.poll_output())
        .any(|output| matches!(output, MembershipOutput::Send { .. }));
    assert!(answered);
}

#[test]
fn a_stall_is_not_held_against_a_suspect() {
    let mut me = machine("me", 1);
    let src = identity::identity("a", 1, 0);
    let join = Packet::Join(src.clone());
    deliver(&mut me, &src, &join);
    let state = |me: &Membership| me.members()[&node_id("a")].state;
    let mut now = Time(1);
    while state(&me) != MemberState::Suspect {
        now = me.poll_timeout().unwrap();
        me.handle_timeout(now);
    }
    // The denial may be in the mail that was not read meanwhile.
    now = now + timing().suspect * 5;
    me.handle_timeout(now);
    assert_eq!(state(&me), MemberState::Suspect);
    while state(&me) == MemberState::Suspect {
        let next = me.poll_timeout().unwrap();
        assert!(next < now + timing().suspect * 2);
        me.handle_timeout(next);
    }
    assert_eq!(state(&me), MemberState::Failed);
}

#[test]
fn nothing_is_said_after_the_last_word() {
    let mut me = machine("me", 1);
    let src = identity::identity("a", 1, 0);
    let join = Packet::Join(src.clone());
    deliver(&mut me, &src, &join);
    me.leave(Time(2));
    let last = me.swim.identity().clone();
    while me.poll_output().is_some() {}
    me.set_tags(Time(9_000_000_000), tag("a", "b"));
    me.set_store(Time(9_000_000_000), StoreId(1));
    me.set_cluster(ClusterId(1));
    me.leave(Time(9_000_000_001));
    assert_eq!(*me.swim.identity(), last);
    assert_eq!(me.members()[&node_id("me")].state, MemberState::Left);
    assert_eq!(me.poll_output(), None);
    // Whoever buries this node is not contradicted.
    let undead = gossip(&me, &src, Message::TurnUndead);
    deliver(&mut me, &src, &undead);
    assert_eq!((me.poll_output(), me.swim.identity()), (None, &last));
}

#[test]
fn pulled_tags_are_taken_only_from_the_run_that_is_known_and_never_backwards() {
    let mut me = machine("me", 1);
    let mut src = identity::identity("a", 1, 0);
    src.profile.tag_version = 2;
    let join = Packet::Join(src.clone());
    deliver(&mut me, &src, &join);
    let pulls = std::iter::from_fn(|| me.poll_output())
        .filter(|output| matches!(output, MembershipOutput::PullTags { version: 2, .. }))
        .count();
    assert_eq!(pulls, 1);
    me.tags_pulled(
        Time(2),
        Instance {
            boot: BootId(9),
            ..src.instance()
        },
        2,
        Some(tag("x", "9")),
    );
    assert!(me.members()[&node_id("a")].tags.is_empty());
    me.tags_pulled(Time(2), src.instance(), 3, Some(tag("x", "3")));
    me.tags_pulled(Time(2), src.instance(), 2, Some(tag("x", "2")));
    let member = &me.members()[&node_id("a")];
    assert_eq!((member.tag_version, member.tags.get("x")), (3, Some("3")));
    let updates = std::iter::from_fn(|| me.poll_output())
        .filter(|output| matches!(output, MembershipOutput::Event(MemberEvent::Updated(_))))
        .count();
    assert_eq!(updates, 1);
    me.tags_pulled(
        Time(2),
        identity::identity("nobody", 1, 0).instance(),
        3,
        Some(tag("x", "3")),
    );
}

fn any_identity() -> impl Strategy<Value = Identity> {
    (
        0..4_u8,
        0..3_u64,
        prop_oneof![0..3_u64, Just(u64::MAX)],
        any::<bool>(),
        0..3_u128,
    )
        .prop_map(|(node, boot, generation, leaving, cluster)| {
            let mut id =
                identity::identity(["me", "a", "b", "c"][usize::from(node)], boot, generation);
            id.profile.leaving = leaving;
            id.profile.cluster = (cluster > 0).then_some(ClusterId(cluster));
            id.profile.tag_version = generation;
            id
        })
}

fn any_message() -> impl Strategy<Value = Message<Identity>> {
    (0..11_u8, any_identity(), any::<u8>()).prop_map(|(kind, id, probe_number)| match kind {
        0 => Message::Ping(probe_number),
        1 => Message::Ack(probe_number),
        2 => Message::PingReq {
            target: id,
            probe_number,
        },
        3 => Message::IndirectPing {
            origin: id,
            probe_number,
        },
        4 => Message::IndirectAck {
            target: id,
            probe_number,
        },
        5 => Message::ForwardedAck {
            origin: id,
            probe_number,
        },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::Broadcast,
        _ => Message::TurnUndead,
    })
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let state = prop_oneof![Just(State::Alive), Just(State::Suspect), Just(State::Down)];
    let member = (any_identity(), prop_oneof![0..3_u16, Just(u16::MAX)], state)
        .prop_map(|(id, incarnation, state)| SwimMember::new(id, incarnation, state));
    let members = proptest::collection::vec(member, 0..6);
    let swim = (any_identity(), any_identity(), any_message(), members).prop_map(
        |(src, dst, message, members)| {
            let header = Header {
                src,
                src_incarnation: 0,
                dst,
                message,
            };
            Packet::Swim(Box::new(SwimMessage { header, members }))
        },
    );
    prop_oneof![
        6 => swim,
        1 => any_identity().prop_map(Packet::Join),
        1 => any_identity().prop_map(Packet::Refusal),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Well-formed nonsense from authenticated senders, between the ticks of a machine that goes on.
    #[test]
    fn nonsense_never_panics_and_packets_stay_small(
        steps in proptest::collection::vec((any_packet(), 0..400_u64), 1..40),
        cluster in 0..3_u128,
    ) {
        let mut me = machine("me", 1);
        let mut now = Time(0);
        if cluster > 0 {
            me.set_cluster(ClusterId(cluster));
        }
        for (packet, wait_ms) in steps {
            let bytes = me.digest.encode(&packet);
            me.handle_gossip(now, &peer(packet.sender()), &bytes);
            now = now + Duration::from_millis(wait_ms);
            while me.poll_timeout().is_some_and(|at| at <= now) {
                let at = me.poll_timeout().unwrap();
                me.handle_timeout(at);
                prop_assert!(me.poll_timeout().is_none_or(|next| next > at));
            }
            while let Some(output) = me.poll_output() {
                if let MembershipOutput::Send { payload, to } = output {
                    prop_assert!(payload.len() <= MAX_GOSSIP_BYTES);
                    prop_assert_ne!(to.node, Some(node_id("me")));
                }
            }
            prop_assert_eq!(me.members()[&node_id("me")].state, MemberState::Alive);
        }
    }

    #[test]
    fn garbage_is_counted_and_dropped(
        bytes in proptest::collection::vec(any::<u8>(), 0..1400),
        keep_header in any::<bool>(),
        kind in 0..4_u8,
    ) {
        let mut me = machine("me", 1);
        let src = identity::identity("a", 1, 0);
        let mut packet = bytes;
        if keep_header {
            let header = me.digest.encode(&Packet::Join(src.clone()));
            packet.splice(0..0, header[..9].iter().copied().chain([kind]));
        }
        me.handle_gossip(Time(1), &peer(&src), &packet);
        let counted: u64 = me.counters().iter().map(|(_, count)| count).sum();
        prop_assert_eq!(counted, 1);
        prop_assert_eq!(names(&me), ["me"]);
        prop_assert!(me.poll_output().is_none());
    }

    #[test]
    fn packets_with_a_flipped_or_missing_byte_never_panic(
        packet in any_packet(),
        at in any::<proptest::sample::Index>(),
        flip in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut me = machine("me", 1);
        let mut bytes = me.digest.encode(&packet).to_vec();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= flip;
        }
        me.handle_gossip(Time(1), &peer(packet.sender()), &bytes);
    }
}
