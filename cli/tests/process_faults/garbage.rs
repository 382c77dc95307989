//! Somebody floods the nodes' ports with garbage while they serve.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::fleet::Fleet;
use crate::load::{Load, judge};
use crate::place::Place;

const NODES: usize = 3;
/// Answers that must come in while the flood runs.
const ANSWERS: usize = 400;
/// Packets sent between two pauses, and how long a pause is: some thousand packets a second, so that what is tested
/// is the nodes and not how two processors are shared.
const BURST: usize = 20;
const PAUSE: Duration = Duration::from_millis(5);
/// Packets at most, should the load never come to an end.
const MOST: usize = 200_000;
/// Larger than what a path carries: such packets arrive on loopback, too.
const LARGEST: usize = 2_000;
const QUIC_VERSION_1: [u8; 4] = [0, 0, 0, 1];
/// Bytes in an `Initial` packet that a server must look at (RFC 9000, 14.1).
const INITIAL_BYTES: usize = 1_200;

#[test]
fn a_flood_of_garbage_costs_no_call() {
    let place = Place::new("garbage");
    let mut fleet = Fleet::new(&place, NODES, None);
    fleet.start_all();
    fleet.wait_whole();
    let targets: Vec<_> = (0..NODES).map(|node| fleet.address(node)).collect();
    let mut load = Load::start(&place, &fleet, None);
    load.wait_answers(1, "before the flood");
    let over = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        // Also if the load fails: the thread is waited for.
        let _end = SetWhenDropped(&over);
        let flood = scope.spawn(|| flood(&targets, &over));
        load.wait_answers(ANSWERS, "in the flood");
        over.store(true, Ordering::Relaxed);
        flood.join().expect("sending to loopback does not panic")
    });
    let report = judge(&place, &fleet, None, load.stop());
    println!("garbage: {sent} packets; {}", report.summary());
    assert!(sent > BURST, "{sent}");
    assert!(report.is_good(), "{report}\n{}", fleet.describe());
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn flood(targets: &[SocketAddr], over: &AtomicBool) -> usize {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut sent = 0;
    while sent < MOST && !over.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            let packet = garbage(&mut random);
            for target in targets {
                // Buffers that are full are part of a flood.
                sent += usize::from(socket.send_to(&packet, target).is_ok());
            }
        }
        std::thread::sleep(PAUSE);
    }
    sent
}

/// Bytes without a meaning, or with just enough of one to cost something: the begin of a handshake with nothing in it, a
/// version that nobody speaks, a packet of a connection that nobody has.
fn garbage(random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut packet = vec![0; random.random_range(0..LARGEST)];
    random.fill_bytes(&mut packet);
    let kind = random.random_range(0..4);
    if kind > 0 && packet.len() < INITIAL_BYTES {
        packet.resize(INITIAL_BYTES, 0);
    }
    match kind {
        0 => {}
        1 => {
            // Long header, `Initial`, version 1, connection ids of 8 bytes, no token.
            packet[0] = 0b1100_0000 | packet[0] & 0b11;
            packet[1..5].copy_from_slice(&QUIC_VERSION_1);
            (packet[5], packet[14], packet[23]) = (8, 8, 0);
            let rest = u16::try_from(packet.len() - 26).unwrap_or_default();
            packet[24..26].copy_from_slice(&(0x4000 | rest).to_be_bytes());
        }
        2 => {
            packet[0] |= 0b1100_0000;
            packet[1..5].copy_from_slice(&[0xfa, 0xfa, 0xfa, 0xfa]);
        }
        _ => packet[0] = 0b0100_0000 | packet[0] & 0b11_1111,
    }
    packet
}
