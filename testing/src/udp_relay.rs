//! A UDP path that loses packets: between clients and one server, in this process.
//!
//! - One thread towards the server, one for each client back. A packet is passed on whole and at once, or lost.
//! - What is lost in a share follows from a fixed seed and the order of packets, which of course is the machine's.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

/// How soon a thread sees that it is over.
const LOOK: Duration = Duration::from_millis(20);
/// No UDP packet is longer.
const PACKET_BYTES_MAX: usize = 64 * 1024;
/// A test needs few.
const CLIENTS_MAX: usize = 256;

/// One address in front of one server. The path ends with it.
#[derive(Debug)]
pub struct UdpRelay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    lose_permille: AtomicU32,
    /// 0: none.
    lose_next_down: AtomicUsize,
    lost: AtomicU64,
    dice: AtomicU64,
    over: AtomicBool,
}

impl UdpRelay {
    /// Opens a path to a server, which loses nothing yet.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn start(server: SocketAddr) -> io::Result<Self> {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), server)
    }

    /// The same at an address of one's own.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn start_on(address: SocketAddr, server: SocketAddr) -> io::Result<Self> {
        let front = UdpSocket::bind(address)?;
        front.set_read_timeout(Some(LOOK))?;
        let address = front.local_addr()?;
        let shared = Arc::new(Shared {
            server,
            lose_permille: AtomicU32::new(0),
            lose_next_down: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            dice: AtomicU64::new(0x9e37_79b9_7f4a_7c15),
            over: AtomicBool::new(false),
        });
        let up = Arc::clone(&shared);
        thread::Builder::new().name("udp-relay".to_owned()).spawn(move || up.pass_up(&front))?;
        Ok(Self { address, shared })
    }

    /// Where clients send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on so many of a thousand packets are lost, both ways.
    pub fn lose_permille(&self, share: u32) {
        self.shared.lose_permille.store(share, SeqCst);
    }

    /// The next packet towards a client that is at least so long is lost.
    pub fn lose_next_down(&self, bytes: usize) {
        self.shared.lose_next_down.store(bytes.max(1), SeqCst);
    }

    /// Packets lost so far.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(SeqCst)
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
    }
}

impl Shared {
    fn pass_up(self: &Arc<Self>, front: &UdpSocket) {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        while !self.over.load(SeqCst) {
            let Ok((read, client)) = front.recv_from(&mut buffer) else { continue };
            if !backs.contains_key(&client) && backs.len() < CLIENTS_MAX {
                let Ok(back) = self.back_to(client, front) else { continue };
                backs.insert(client, back);
            }
            if let Some(back) = backs.get(&client)
                && !self.loses()
            {
                // A server that is gone is a path that loses.
                drop(back.send(&buffer[..read]));
            }
        }
    }

    /// The socket that the server sees in a client's place, and its way back.
    fn back_to(self: &Arc<Self>, client: SocketAddr, front: &UdpSocket) -> io::Result<Arc<UdpSocket>> {
        // The server may be beyond a bridge.
        let back = Arc::new(UdpSocket::bind("0.0.0.0:0")?);
        back.connect(self.server)?;
        back.set_read_timeout(Some(LOOK))?;
        let (front, down, shared) = (front.try_clone()?, Arc::clone(&back), Arc::clone(self));
        thread::Builder::new().name("udp-relay-back".to_owned()).spawn(move || {
            let mut buffer = vec![0; PACKET_BYTES_MAX];
            while !shared.over.load(SeqCst) {
                let Ok(read) = down.recv(&mut buffer) else { continue };
                let is_next = |bytes: usize| (bytes > 0 && read >= bytes).then_some(0);
                let is_next = shared.lose_next_down.fetch_update(SeqCst, SeqCst, is_next).is_ok();
                if is_next {
                    shared.lost.fetch_add(1, SeqCst);
                } else if !shared.loses() {
                    drop(front.send_to(&buffer[..read], client));
                }
            }
        })?;
        Ok(back)
    }

    fn loses(&self) -> bool {
        let share = self.lose_permille.load(SeqCst);
        if share == 0 {
            return false;
        }
        // Knuth's MMIX generator, its upper bits.
        let next = |dice: u64| dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let thrown = self.dice.fetch_update(SeqCst, SeqCst, |dice| Some(next(dice))).unwrap_or_default();
        let is_lost = (thrown >> 33) % 1_000 < u64::from(share);
        self.lost.fetch_add(u64::from(is_lost), SeqCst);
        is_lost
    }
}
