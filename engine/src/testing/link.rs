//! What links of a [`Mesh`](super::Mesh) do to frames, and what happened to frames and stores.

/// What a datagram link does to frames; parts are per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkFaults {
    /// Frames that vanish.
    pub loss_ppm: u64,
    /// Frames that arrive twice.
    pub double_ppm: u64,
    /// Frames with a flipped bit.
    pub damage_ppm: u64,
    /// Largest extra delay, in microseconds; frames overtake each other.
    pub jitter_micros: u64,
}

/// What happened to frames and stores so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MeshCounts {
    /// Frames that arrived.
    pub arrived: u64,
    /// Frames that vanished by chance.
    pub lost: u64,
    /// Frames that were sent twice.
    pub doubled: u64,
    /// Frames with a flipped bit.
    pub damaged: u64,
    /// Frames that vanished on a link that was cut or taken down.
    pub cut_off: u64,
    /// Hints that were published by gossip.
    pub published: u64,
    /// Batches that a store was made to refuse.
    pub store_failures: u64,
    /// Batches that a store refused by itself, and starts that failed.
    pub store_refusals: u64,
    /// Power cuts between two outputs of one device.
    pub cuts_between_outputs: u64,
    /// Timers that fired.
    pub timers: u64,
}
