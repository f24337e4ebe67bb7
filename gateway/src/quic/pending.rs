//! What the task of a QUIC connection has taken and its streams have not: by way, and in front of a stream that is new its class.
//!
//! - Frames and counts, and no stream: whoever has one writes from here, and says how much of it was taken.
//! - What counts as written is what was handed over. The byte that names the class is the stream's own, and nobody waits for it.

use super::lane::Way;
use billfish_wire::Class;
use bytes::Bytes;
use std::collections::VecDeque;

/// To be written.
#[derive(Debug, Default)]
pub(super) struct Pending {
    frames: [VecDeque<Bytes>; Way::COUNT],
    /// The class stands in front, and has not been written.
    is_named: [bool; Way::COUNT],
}

impl Pending {
    /// Where more is put behind.
    pub(super) const fn frames_mut(&mut self) -> &mut [VecDeque<Bytes>; Way::COUNT] {
        &mut self.frames
    }

    pub(super) fn is_empty(&self, way: Way) -> bool {
        self.frames[way.index()].is_empty()
    }

    /// Whether nothing is left on any way.
    pub(super) fn is_all_written(&self) -> bool {
        self.frames.iter().all(VecDeque::is_empty)
    }

    /// The stream of a class was opened: its first byte says of which.
    pub(super) fn name(&mut self, class: Class) {
        let at = Way::Push(class).index();
        self.frames[at].push_front(Bytes::copy_from_slice(&[class as u8]));
        self.is_named[at] = true;
    }

    /// What is next on a way. Whoever writes shortens the chunk of which a beginning was taken.
    pub(super) fn chunks(&mut self, way: Way) -> &mut [Bytes] {
        self.frames[way.index()].make_contiguous()
    }

    /// So many chunks were taken whole, and so many bytes with the beginning of the next; how many of these were handed over.
    pub(super) fn wrote(&mut self, way: Way, chunks: usize, bytes: usize) -> usize {
        let at = way.index();
        self.frames[at].drain(..chunks);
        if self.frames[at].is_empty() {
            // What is idle owns no queue.
            self.frames[at] = VecDeque::new();
        }
        bytes - usize::from(bytes > 0 && std::mem::take(&mut self.is_named[at]))
    }
}
