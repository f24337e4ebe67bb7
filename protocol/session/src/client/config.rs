//! Who logs in, and the bounds of the client's end.

use billfish_wire::Encoding;

/// Who logs in, and the bounds of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Business line.
    pub app_id: i32,
    /// Who.
    pub user_id: i64,
    /// How bodies are written.
    pub encoding: Encoding,
    /// Kind of device; one session per user and kind.
    pub platform: Option<String>,
    /// The device's own id, for the operator's logs.
    pub device_id: Option<String>,
    /// Version of the app.
    pub version: Option<String>,
    /// Read the inbox at every login.
    pub inbox: bool,
    /// From LOGIN to its answer, and from LOGOUT to its echo.
    pub answer_timeout_ms: u64,
    /// Heartbeat gaps without a frame from the server after which the connection counts as dead.
    pub silent_gaps: u32,
    /// Rooms at once; the server allows no more.
    pub rooms_max: usize,
    /// Messages that wait to be accepted. With the rooms and the inbox they must stay below what the server lets be under way, 32, so that a
    /// resume is not refused.
    pub in_flight_max: usize,
    /// Ids of messages outside rooms that are remembered, to show each once. A room remembers its own.
    pub seen_max: usize,
}

impl ClientConfig {
    /// The defaults for one user.
    #[must_use]
    pub fn new(app_id: i32, user_id: i64) -> Self {
        Self {
            app_id,
            user_id,
            encoding: Encoding::Json,
            platform: None,
            device_id: None,
            version: None,
            inbox: true,
            answer_timeout_ms: 10_000,
            silent_gaps: 2,
            rooms_max: billfish_wire::limits::RESUME_ROOMS_MAX,
            in_flight_max: 16,
            seen_max: 1_024,
        }
    }
}
