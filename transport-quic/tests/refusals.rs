//! Who is refused: counted and logged on both sides, with the reason and what to do.

mod common;

use std::time::Duration;

use common::{Behaviour, Node, Raw, eventually, expired, hello, id, local, refusal, warned};
use funk::ids::{BootId, PeerAddr};
use funk::transport::{Incoming, LocalNode, PeerKind, Transport, TransportError};
use funk_quic::{Authority, Credentials, QuicConfig, QuicTransport};
use tokio::io::AsyncWriteExt;

/// The node still works for those who are welcome.
async fn still_serves(node: &mut Node, authority: &Authority) {
    let friend = Node::start(authority, "friend", 1);
    friend.exchange(node).await;
}

#[tokio::test]
async fn a_peer_of_another_authority_is_refused_on_both_sides() {
    let (ours, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    let mut n1 = Node::start(&ours, "n1", 1);
    let stranger = Node::start(&theirs, "n2", 1);
    let reason = refusal(stranger.open(&n1.to()).await);
    assert!(reason.contains("another authority"), "{reason}");
    eventually(|| n1.counters().refused == 1 && stranger.counters().refused == 1).await;
    let port = format!("addr={}", stranger.addr());
    warned(&["local=n1/1", &port, "another authority"]).await;
    warned(&["local=n2/1", "another authority", "issue certificates"]).await;
    still_serves(&mut n1, &ours).await;
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused_even_if_it_believes_us() {
    let (ours, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    let n1 = Node::start(&ours, "n1", 1);
    let raw = Raw::new(
        Some(&theirs.issue_node(&id("n2")).unwrap()),
        Behaviour::default(),
    );
    raw.rejected(n1.addr(), &hello("test", "n2", 1, 1)).await;
    eventually(|| n1.counters().refused == 1).await;
    let raw_addr = raw.endpoint.local_addr().unwrap().to_string();
    warned(&[&raw_addr, "another authority"]).await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_in_either_role() {
    let authority = Authority::new().unwrap();
    let mut n1 = Node::start(&authority, "n1", 1);
    let raw = Raw::new(Some(&expired(&authority, "n2")), Behaviour::default());
    raw.rejected(n1.addr(), &hello("test", "n2", 1, 1)).await;
    let raw_addr = raw.endpoint.local_addr().unwrap().to_string();
    warned(&[&raw_addr, "has expired", "renew"]).await;
    let reason = raw.refused_by(&n1, "n2").await;
    assert!(reason.contains("has expired"), "{reason}");
    assert_eq!(n1.counters().refused, 2);
    still_serves(&mut n1, &authority).await;
}

#[tokio::test]
async fn a_peer_without_a_certificate_is_refused() {
    let authority = Authority::new().unwrap();
    let mut n1 = Node::start(&authority, "n1", 1);
    let raw = Raw::new(None, Behaviour::default());
    raw.rejected(n1.addr(), &hello("test", "n2", 1, 1)).await;
    eventually(|| n1.counters().refused == 1).await;
    let raw_addr = raw.endpoint.local_addr().unwrap().to_string();
    warned(&[&raw_addr, "no certificate was shown", "issue one"]).await;
    still_serves(&mut n1, &authority).await;
}

/// A client: what it sends is said to be a client's, and nobody mistakes it for the node of its name.
#[tokio::test]
async fn a_client_is_taken_for_a_client_and_not_for_the_node_of_its_name() {
    let authority = Authority::new().unwrap();
    let mut n1 = Node::start(&authority, "n1", 1);
    let mut n2 = Node::start(&authority, "n2", 5);
    // The node and two clients, one with an older run than the other, bear one name.
    n2.exchange(&mut n1).await;
    let clients = [
        Node::client(&authority, "n2", 9),
        Node::client(&authority, "n2", 3),
    ];
    let mut held = Vec::new();
    for client in &clients {
        let (peer, mut ours) = client.open(&n1.to()).await.unwrap();
        assert_eq!(peer.kind, PeerKind::Node);
        ours.send.write_all(b"x").await.unwrap();
        let (from, theirs) = n1.stream().await;
        assert_eq!(
            (from.kind, &from.instance.node),
            (PeerKind::Client, &id("n2"))
        );
        client.transport.send_datagram(&n1.to(), "x".into());
        assert_eq!(n1.datagram().await.0.kind, PeerKind::Client);
        held.push((ours, theirs));
    }
    let (from, _) = {
        n2.transport.send_datagram(&n1.to(), "from the node".into());
        n1.datagram().await
    };
    assert_eq!(from.kind, PeerKind::Node);
    assert_eq!(from.addr, n2.addr());
    n1.exchange(&mut n2).await;
    assert_eq!(n1.counters().refused, 0);
}

#[tokio::test]
async fn a_client_cannot_claim_another_name_or_be_dialled() {
    let authority = Authority::new().unwrap();
    let n1 = Node::start(&authority, "n1", 1);
    let client = authority.issue_client(&id("n2")).unwrap();
    let raw = Raw::new(Some(&client), Behaviour::default());
    let reason = raw.rejected(n1.addr(), &hello("test", "n3", 1, 1)).await;
    assert!(
        reason.contains("n3/1 introduced itself with the certificate of client `n2`"),
        "{reason}"
    );
    eventually(|| n1.counters().refused == 1).await;
    let reason = raw.refused_by(&n1, "n2").await;
    assert!(reason.contains("client `n2`"), "{reason}");
    let elsewhere = raw.rejected(n1.addr(), &hello("prod", "n2", 1, 1)).await;
    assert!(elsewhere.contains("wrong cluster"), "{elsewhere}");
}

#[tokio::test]
async fn a_client_starts_with_a_clients_certificate_only() {
    let authority = Authority::new().unwrap();
    for credentials in [
        authority.node_credentials(&id("cli")).unwrap(),
        authority.client_credentials(&id("other")).unwrap(),
    ] {
        let transport =
            QuicTransport::bind(common::loopback(), credentials, QuicConfig::default()).unwrap();
        let client = LocalNode {
            versions: funk::versions::VersionRange::SPOKEN,
            kind: PeerKind::Client,
            ..local("test", "cli", 1)
        };
        let error = transport.start(client).unwrap_err().to_string();
        assert!(error.contains("this is client `cli`"), "{error}");
    }
}

#[tokio::test]
async fn a_claim_to_another_nodes_name_is_refused_in_either_role() {
    let authority = Authority::new().unwrap();
    let mut n1 = Node::start(&authority, "n1", 1);
    let raw = Raw::new(
        Some(&authority.issue_node(&id("n2")).unwrap()),
        Behaviour::default(),
    );
    let reason = raw.rejected(n1.addr(), &hello("test", "n3", 9, 1)).await;
    assert!(
        reason.contains("n3/9 introduced itself with the certificate of node `n2`"),
        "{reason}"
    );
    eventually(|| n1.counters().refused == 1).await;
    let to = raw.to("n2");
    let answer = hello("test", "n3", 9, 1);
    let (opened, _) = tokio::join!(n1.open(&to), raw.accept(&answer));
    let reason = refusal(opened);
    assert!(reason.contains("certificate of node `n2`"), "{reason}");
    assert_eq!(n1.counters().refused, 2);
    still_serves(&mut n1, &authority).await;
}

#[tokio::test]
async fn whoever_answers_must_be_the_one_who_was_dialled() {
    let authority = Authority::new().unwrap();
    let n1 = Node::start(&authority, "n1", 1);
    let n2 = Node::start(&authority, "n2", 1);
    let wrong = PeerAddr {
        node: Some(id("n3")),
        addr: n2.addr(),
    };
    let reason = refusal(n1.open(&wrong).await);
    assert_eq!(
        reason,
        "node `n3` was expected at this address, but node `n2` answered"
    );
    eventually(|| n1.counters().refused == 1 && n2.counters().refused == 1).await;
    let seed = PeerAddr {
        node: None,
        ..wrong
    };
    let (peer, _) = n1.open(&seed).await.unwrap();
    assert_eq!(peer.instance.node, id("n2"), "a seed's name is learnt");
    assert_eq!(peer.addr, n2.addr());
}

#[tokio::test]
async fn another_cluster_is_refused_and_both_sides_know_why() {
    let authority = Authority::new().unwrap();
    let n1 = Node::start(&authority, "n1", 41);
    let credentials = authority.node_credentials(&id("n2")).unwrap();
    let n2 = Node::with(credentials, "n2", 42, "prod", QuicConfig::default());
    let reason = refusal(n2.open(&n1.to()).await);
    for part in ["wrong cluster", "n2/2a", "`prod`", "n1/29", "`test`"] {
        assert!(reason.contains(part), "{reason}");
    }
    eventually(|| n1.counters().refused == 1 && n2.counters().refused == 1).await;
    warned(&["local=n1/29", "wrong cluster", "same cluster name"]).await;
    warned(&["local=n2/2a", "the peer refused us", "wrong cluster"]).await;
    assert_eq!(n2.counters().closed_by_peer, 0, "that is for connections");
}

#[tokio::test]
async fn another_protocol_version_is_refused_in_either_role() {
    let authority = Authority::new().unwrap();
    let mut n1 = Node::start(&authority, "n1", 1);
    let behaviour = Behaviour {
        alpn: b"funk/2",
        ..Behaviour::default()
    };
    let raw = Raw::new(Some(&authority.issue_node(&id("n2")).unwrap()), behaviour);
    assert!(raw.dial(n1.addr()).await.is_err());
    eventually(|| n1.counters().refused == 1).await;
    let raw_addr = raw.endpoint.local_addr().unwrap().to_string();
    warned(&[&raw_addr, "no version of the protocol in common", "funk/1"]).await;
    let reason = raw.refused_by(&n1, "n2").await;
    assert!(reason.contains("no version of the protocol"), "{reason}");
    assert_eq!(n1.counters().refused, 2);
    still_serves(&mut n1, &authority).await;
}

#[tokio::test]
async fn unreadable_introductions_are_refused_and_counted_as_malformed() {
    let authority = Authority::new().unwrap();
    let mut n1 = Node::start(&authority, "n1", 1);
    let raw = Raw::new(
        Some(&authority.issue_node(&id("n2")).unwrap()),
        Behaviour::default(),
    );
    let mut oversized = vec![0xff, 0xff];
    oversized.resize(2_000, 7);
    let reason = raw.rejected(n1.addr(), &oversized).await;
    assert!(reason.contains("has 65535 bytes"), "{reason}");
    let mut just_over = 513_u16.to_be_bytes().to_vec();
    just_over.resize(2 + 513, 0);
    let reason = raw.rejected(n1.addr(), &just_over).await;
    assert!(reason.contains("has 513 bytes"), "{reason}");
    let reason = raw.rejected(n1.addr(), b"\0\x08garbage!").await;
    assert!(reason.contains("introduction"), "{reason}");
    eventually(|| n1.counters().malformed == 3 && n1.counters().refused == 3).await;

    let to = raw.to("n2");
    let (opened, _) = tokio::join!(n1.open(&to), raw.accept(&oversized));
    assert!(refusal(opened).contains("has 65535 bytes"));
    eventually(|| n1.counters().malformed == 4 && n1.counters().refused == 4).await;
    still_serves(&mut n1, &authority).await;
}

#[tokio::test]
async fn a_peer_that_never_introduces_itself_is_dropped() {
    let authority = Authority::new().unwrap();
    let credentials = authority.node_credentials(&id("n1")).unwrap();
    let config = QuicConfig {
        connect_timeout: Duration::from_millis(300),
        ..QuicConfig::default()
    };
    let mut n1 = Node::with(credentials, "n1", 1, "test", config);
    let raw = Raw::new(
        Some(&authority.issue_node(&id("n2")).unwrap()),
        Behaviour::default(),
    );
    // Silent, and one byte of a hello only: both end, by the peer's doing.
    for first_bytes in [&b""[..], b"\0"] {
        let end = raw.rejected(n1.addr(), first_bytes).await;
        assert!(end.contains("closed by peer"), "{end}");
    }
    still_serves(&mut n1, &authority).await;
}

#[tokio::test]
async fn two_nodes_of_one_name_refuse_each_other_and_a_node_ignores_itself() {
    let authority = Authority::new().unwrap();
    let mut one = Node::start(&authority, "n1", 1);
    let mut other = Node::start(&authority, "n1", 2);
    let seed = PeerAddr {
        node: None,
        addr: other.addr(),
    };
    let reason = refusal(one.open(&seed).await);
    assert!(
        reason.contains("two nodes run under the name `n1`"),
        "{reason}"
    );
    eventually(|| one.counters().refused == 1 && other.counters().refused == 1).await;
    let told = common::soon(one.incoming.recv()).await;
    assert!(
        matches!(told, Some(Incoming::Superseded { by: None })),
        "{told:?}"
    );
    assert!(other.incoming.try_recv().is_err(), "the newer one stays");
    // Dialled by the newer one, the older one knows by which.
    let seed = PeerAddr {
        node: None,
        addr: one.addr(),
    };
    refusal(other.open(&seed).await);
    let told = common::soon(one.incoming.recv()).await;
    assert!(
        matches!(
            told,
            Some(Incoming::Superseded {
                by: Some(BootId(2))
            })
        ),
        "{told:?}"
    );
    assert!(other.incoming.try_recv().is_err(), "the newer one stays");

    let own = PeerAddr {
        node: None,
        addr: one.addr(),
    };
    let reason = refusal(one.open(&own).await);
    assert!(reason.contains("this node itself"), "{reason}");
    assert_eq!(one.counters().refused, 2, "a seed list may name the node");

    // By an address that the node does not know to be its own.
    let credentials = authority.node_credentials(&id("n3")).unwrap();
    let config = QuicConfig {
        advertised: Some("192.0.2.1:0".parse().unwrap()),
        ..QuicConfig::default()
    };
    let addr = {
        let probe = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        probe.local_addr().unwrap()
    };
    let hidden = Node::at(addr, credentials, "n3", 1, "test", config);
    assert_eq!(
        hidden.addr(),
        "192.0.2.1:0"
            .parse()
            .map(|mut a: std::net::SocketAddr| {
                a.set_port(addr.port());
                a
            })
            .unwrap()
    );
    let reason = refusal(hidden.open(&PeerAddr { node: None, addr }).await);
    assert!(reason.contains("this node itself"), "{reason}");
    assert_eq!(hidden.counters().refused, 0);
}

#[tokio::test]
async fn an_older_run_is_refused() {
    let authority = Authority::new().unwrap();
    let mut n1 = Node::start(&authority, "n1", 1);
    let newer = Node::start(&authority, "n2", 8);
    newer.exchange(&mut n1).await;
    let mut older = Node::start(&authority, "n2", 7);
    let reason = refusal(older.open(&n1.to()).await);
    assert!(reason.contains("n2/7 is an old run: run 8"), "{reason}");
    eventually(|| n1.counters().refused == 1 && older.counters().refused == 1).await;
    let told = common::soon(older.incoming.recv()).await;
    assert!(
        matches!(told, Some(Incoming::Superseded { .. })),
        "{told:?}"
    );
    newer.exchange(&mut n1).await;
}

#[tokio::test]
async fn a_run_whose_successor_connects_is_told() {
    let authority = Authority::new().unwrap();
    let mut n1 = Node::start(&authority, "n1", 1);
    let mut older = Node::start(&authority, "n2", 7);
    older.exchange(&mut n1).await;
    let newer = Node::start(&authority, "n2", 8);
    newer.exchange(&mut n1).await;
    let told = common::soon(older.incoming.recv()).await;
    assert!(
        matches!(told, Some(Incoming::Superseded { .. })),
        "{told:?}"
    );
    warned(&["local=n2/7", "a newer run of this node"]).await;
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let authority = Authority::new().unwrap();
    let n1 = Node::start(&authority, "n1", 1);
    let credentials = authority.node_credentials(&id("n2")).unwrap();
    let error = QuicTransport::bind(n1.addr(), credentials, QuicConfig::default()).unwrap_err();
    assert!(matches!(&error, TransportError::Bind { addr, .. } if *addr == n1.addr()));
    let text = error.to_string();
    assert!(
        text.contains(&n1.addr().to_string()) && text.contains("choose another"),
        "{text}"
    );
}

#[tokio::test]
async fn an_address_that_peers_cannot_reach_needs_one_that_they_can() {
    let authority = Authority::new().unwrap();
    let credentials = authority.node_credentials(&id("n1")).unwrap();
    let any = "0.0.0.0:0".parse().unwrap();
    let config = QuicConfig::default();
    let error = QuicTransport::bind(any, credentials.clone(), config).unwrap_err();
    assert!(error.to_string().contains("advertised"), "{error}");
    let config = QuicConfig {
        advertised: Some("127.0.0.1:0".parse().unwrap()),
        ..QuicConfig::default()
    };
    let mut n1 = Node::at(any, credentials, "n1", 1, "test", config);
    assert_ne!(n1.addr().port(), 0);
    still_serves(&mut n1, &authority).await;
}

#[tokio::test]
async fn a_node_cannot_start_under_a_name_that_its_certificate_does_not_prove() {
    let authority = Authority::new().unwrap();
    let client = authority.issue_client(&id("n1")).unwrap();
    let client = Credentials::from_pem(
        authority.certificate_pem(),
        &client.certificate_pem,
        &client.key_pem,
    );
    let other = authority.node_credentials(&id("n2"));
    for credentials in [client.unwrap(), other.unwrap()] {
        let transport =
            QuicTransport::bind(common::loopback(), credentials, QuicConfig::default()).unwrap();
        let error = transport.start(local("test", "n1", 1)).unwrap_err();
        assert!(matches!(error, TransportError::Credentials(_)), "{error}");
        assert!(error.to_string().contains("node `n1`"), "{error}");
    }
}
