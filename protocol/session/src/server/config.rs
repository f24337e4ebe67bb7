//! Times and bounds of the gateway's end.

/// Times and bounds of a session. One per gateway, shared by all its machines.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// From accept to a valid LOGIN.
    pub login_timeout_ms: u64,
    /// The gap between heartbeats that LOGIN's answer asks for.
    pub heartbeat_gap_ms: u64,
    /// Silent gaps after which the session is over.
    pub silent_gaps: u32,
    /// From the first byte of a frame to its last.
    pub frame_timeout_ms: u64,
    /// Longest body before login.
    pub login_body_bytes_max: usize,
    /// Longest body after it.
    pub body_bytes_max: usize,
    /// A QoS-1 push is sent again this long after it was sent last; one entry per resend, so the length is also their number.
    pub resend_after_ms: Vec<u64>,
    /// A room push whose ACK is later than this is recorded in the shared state.
    pub late_ack_ms: u64,
    /// QoS-1 pushes that may wait for their ACK; beyond it the oldest is handed over at once.
    pub pending_max: usize,
    /// BIZ, JOIN, LEAVE and SYNC under way to routers; beyond it the client is told to wait (4007).
    pub upstream_max: usize,
    /// Rooms one session may be in.
    pub rooms_max: usize,
    /// Frames per second from a client, ACKs apart, and how many at once.
    pub frames_per_s: u32,
    /// Burst of the above.
    pub frames_burst: u32,
    /// Bytes per second from a client.
    pub bytes_per_s: u32,
    /// Burst of the above.
    pub bytes_burst: u32,
    /// Frames refused for rate in a row after which the connection is closed with 4007.
    pub refused_in_a_row_max: u32,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            login_timeout_ms: 5_000,
            heartbeat_gap_ms: 30_000,
            silent_gaps: 2,
            frame_timeout_ms: 15_000,
            login_body_bytes_max: billfish_wire::limits::LOGIN_BODY_BYTES_MAX,
            body_bytes_max: billfish_wire::limits::BODY_BYTES_MAX,
            resend_after_ms: vec![4_000, 8_000],
            late_ack_ms: 200,
            pending_max: 256,
            upstream_max: 32,
            rooms_max: billfish_wire::limits::RESUME_ROOMS_MAX,
            frames_per_s: 20,
            frames_burst: 60,
            bytes_per_s: 64 * 1024,
            bytes_burst: 128 * 1024,
            refused_in_a_row_max: 200,
        }
    }
}
