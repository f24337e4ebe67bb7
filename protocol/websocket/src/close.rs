//! Numbers that a connection ends with: RFC 6455, section 7.4, and those registered since.

/// It has served its purpose.
pub const NORMAL: u16 = 1000;
/// The server goes down, or the page is left.
pub const GOING_AWAY: u16 = 1001;
/// The peer broke the rules of the framing.
pub const PROTOCOL_ERROR: u16 = 1002;
/// A kind of message that is not served here.
pub const UNSUPPORTED: u16 = 1003;
/// The bytes do not fit their kind: text that is not UTF-8.
pub const INVALID_DATA: u16 = 1007;
/// Refused for a reason that no other number names.
pub const POLICY: u16 = 1008;
/// A message above the limit.
pub const TOO_LARGE: u16 = 1009;
/// A fault of the server.
pub const INTERNAL: u16 = 1011;
/// The server is overloaded: come back later.
pub const TRY_AGAIN_LATER: u16 = 1013;

/// Whether a Close frame may carry the number.
///
/// 1004 is reserved; 1005, 1006 and 1015 name what an end notices and may never be sent; 1016 to 2999 belong to the protocol's future;
/// 3000 to 3999 are registered by libraries and 4000 to 4999 free for applications.
#[must_use]
pub const fn is_legal(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
