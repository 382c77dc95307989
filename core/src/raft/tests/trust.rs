//! What must not be trusted: requests, entries of newer releases, the application.

use super::*;

#[test]
fn an_application_that_panics_stops_the_node() {
    struct Broken;
    impl ReplicatedState for Broken {
        fn apply(&mut self, _: crate::state::Applied<'_>) -> Bytes {
            panic!("a bug of the application");
        }
        fn snapshot(&self) -> Bytes {
            Bytes::new()
        }
        fn restore(&mut self, _: Bytes) -> Result<(), crate::state::RestoreError> {
            Ok(())
        }
    }
    simulate(async {
        let mut cluster = Cluster::new(25);
        cluster.start_with(1, Box::new(Broken)).await;
        cluster.initialise(1..=1);
        cluster.until("a leader", |c| c.leader().is_some()).await;
        let lost = cluster.append(1, "a").await;
        assert_eq!(lost, Err(AppendError::Unknown));
        let mut failure = cluster.nodes[&1].device.failure();
        let reason = failure
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        assert!(reason.contains("the application panicked"), "{reason}");
    });
}

fn request(cluster: &Cluster, from: u64, to: u64) -> Request {
    let vote = openraft::alias::VoteOf::<TypeConfig>::new(99, cluster.nodes[&from].id.clone());
    Request {
        cluster: CLUSTER,
        from: cluster.nodes[&from].id.clone(),
        to: cluster.nodes[&to].id.clone(),
        call: Call::Vote(openraft::raft::VoteRequest::new(vote, None)),
    }
}

fn peer(n: u64) -> Peer {
    Peer {
        version: crate::versions::NEWEST,
        instance: Instance {
            node: name(n),
            boot: BootId(1),
        },
        kind: crate::transport::PeerKind::Node,
        addr: addr(n),
    }
}

#[test]
fn requests_that_are_not_for_this_member_are_refused() {
    simulate(async {
        let mut cluster = Cluster::formed(17, 3).await;
        cluster.run_for(100 * MS).await;
        let good = request(&cluster, 2, 1);
        let ask = async |request: &Request| {
            let reply = cluster.nodes[&1]
                .device
                .handle_rpc(&peer(2), request.encode())
                .await;
            Reply::decode(&reply).unwrap()
        };
        assert!(matches!(ask(&good).await, Reply::Vote(response) if !response.vote_granted));
        let mut other = good.clone();
        other.cluster = ClusterId(78);
        assert_eq!(ask(&other).await, Reply::Refused(Refusal::OtherCluster));
        let mut other = good.clone();
        other.to.store = StoreId(50);
        assert_eq!(ask(&other).await, Reply::Refused(Refusal::OtherStore));
        let mut other = good.clone();
        other.from.node = name(3);
        assert_eq!(ask(&other).await, Reply::Refused(Refusal::OtherSender));
        let mut other = good.clone();
        other.from.store = StoreId(51);
        assert_eq!(
            ask(&other).await,
            Reply::Refused(Refusal::Malformed),
            "a vote for another"
        );
        let device = &cluster.nodes[&1].device;
        device.accept(ClusterId(78));
        assert!(
            matches!(ask(&good).await, Reply::Vote(_)),
            "the log decides, once it holds entries"
        );
        for garbage in [
            &b""[..],
            b"\x01",
            b"\x02\x00",
            &[0xff; 64],
            &[1; 64],
            &[1, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ] {
            let reply = device
                .handle_rpc(&peer(2), Bytes::copy_from_slice(garbage))
                .await;
            assert!(
                matches!(Reply::decode(&reply), Ok(Reply::Refused(_))),
                "{garbage:?}"
            );
        }
    });
}

#[test]
fn an_entry_of_a_newer_release_stops_the_node_with_a_message() {
    simulate(async {
        let cluster = Cluster::formed(18, 3).await;
        let leader = cluster.leader().unwrap();
        cluster.append(leader, "a").await.unwrap();
        let raft = cluster.nodes[&leader].device.0.raft.clone();
        raft.write(types::Entry::raw(&[200, 0])).await.unwrap();
        let device = cluster.nodes[&leader].device.clone();
        let mut failure = device.failure();
        let reason = failure
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        assert!(reason.contains("upgrade this node"), "{reason}");
        assert_eq!(cluster.nodes[&leader].journal.texts(), ["a"]);
        assert_eq!(cluster.append(leader, "b").await, Err(AppendError::Stopped));
        assert_eq!(device.wait_applied(LogIndex(99)).await, Err(Stopped));
    });
}
