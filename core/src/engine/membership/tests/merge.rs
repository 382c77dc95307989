//! What is learnt does not depend on the order in which it is learnt, nor on how often.

use super::*;
use foca::Member as SwimMember;
use foca::State;

/// A piece of news, told by a node of its own so that it can be authentic.
fn tell(machine: &mut Membership, news: &[SwimMember<Identity>]) {
    let teller = identity::identity("teller", 1, 0);
    let message = SwimMessage {
        header: Header {
            src: teller.clone(),
            src_incarnation: 0,
            dst: machine.swim.identity().clone(),
            message: Message::Gossip,
        },
        members: news.to_vec(),
    };
    let from = Peer {
        version: crate::versions::NEWEST,
        instance: teller.instance(),
        kind: crate::transport::PeerKind::Node,
        addr: teller.profile.addr,
    };
    let packet = machine.digest.encode(&Packet::Swim(Box::new(message)));
    machine.handle_gossip(Time(1), &from, &packet);
}

fn news() -> impl Strategy<Value = SwimMember<Identity>> {
    let state = prop_oneof![Just(State::Alive), Just(State::Suspect), Just(State::Down)];
    (
        0..4_u8,
        1..3_u64,
        0..3_u64,
        0..3_u16,
        state,
        any::<bool>(),
        0..2_u64,
    )
        .prop_map(
            |(node, boot, generation, incarnation, state, leaving, tag_version)| {
                let mut id = identity::identity(&format!("n{node}"), boot, generation);
                id.profile.leaving = leaving;
                id.profile.tag_version = tag_version;
                SwimMember::new(id, incarnation, state)
            },
        )
}

type View = Vec<(Instance, MemberState, Identity)>;

fn view(machine: &Membership) -> View {
    let known = machine.known.values();
    known
        .map(|known| {
            (
                known.identity.instance(),
                known.state,
                known.identity.clone(),
            )
        })
        .collect()
}

fn shown(machine: &Membership) -> Vec<(Instance, MemberState)> {
    let members = machine.members().values();
    members
        .map(|member| (member.instance.clone(), member.state))
        .collect()
}

proptest! {
    #[test]
    fn merging_is_commutative_and_idempotent(
        batch in proptest::collection::vec(news(), 1..12),
        order in any::<proptest::sample::Index>(),
        again in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        let mut one = machine("me", 1);
        batch.iter().for_each(|item| tell(&mut one, std::slice::from_ref(item)));
        let mut other = machine("me", 2);
        let mut shuffled = batch.clone();
        shuffled.rotate_left(order.index(batch.len()));
        shuffled.reverse();
        shuffled.extend(again.iter().map(|index| batch[index.index(batch.len())].clone()));
        for half in shuffled.chunks(3) {
            tell(&mut other, half);
        }
        prop_assert_eq!(view(&one), view(&other));
        prop_assert_eq!(shown(&one), shown(&other));
        let before = (view(&one), shown(&one), one.outputs.iter().filter(|o| matches!(o, MembershipOutput::Event(_))).count());
        batch.iter().for_each(|item| tell(&mut one, std::slice::from_ref(item)));
        let after = (view(&one), shown(&one), one.outputs.iter().filter(|o| matches!(o, MembershipOutput::Event(_))).count());
        prop_assert_eq!(before, after);
    }
}

#[test]
fn word_of_a_newer_run_of_this_node_is_passed_on_and_of_an_older_one_is_not() {
    let mut node = machine("me", 5);
    let own = node.swim.identity().clone();
    let run = |boot| identity::identity(own.node.as_str(), boot, 0);
    let superseded = |node: &mut Membership| {
        std::iter::from_fn(|| node.poll_output())
            .filter(|output| matches!(output, MembershipOutput::Superseded(_)))
            .collect::<Vec<_>>()
    };
    let (newer, older) = (own.boot.0 + 1, own.boot.0 - 1);
    tell(&mut node, &[SwimMember::new(run(older), 0, State::Alive)]);
    assert_eq!(superseded(&mut node), []);
    tell(&mut node, &[SwimMember::new(run(newer), 0, State::Alive)]);
    let expected = MembershipOutput::Superseded(crate::ids::BootId(newer));
    assert_eq!(superseded(&mut node), [expected]);
}
