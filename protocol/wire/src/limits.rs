//! What a peer may send: every bound with its reason beside it. Configuration may move those that say so.

/// Longest body before login (configurable). The longest legal LOGIN, every text field full and eight rooms to resume, is under 1.5 KiB;
/// the rest is headroom for fields of later versions. A stranger gets no more.
pub const LOGIN_BODY_BYTES_MAX: usize = 4 * 1024;
/// Longest body of a session, in both directions: what goes up is configurable, and JOIN and SYNC answers are cut to it.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Deepest nesting of a JSON body. The deepest legal one, LOGIN's `resume.rooms`, is 3.
pub const JSON_DEPTH_MAX: usize = 16;
/// Most object keys in a JSON body, all levels together, and most fields in a protobuf body. A body with every field set and eight rooms
/// to resume has 38.
pub const JSON_KEYS_MAX: usize = 64;
/// Longest id in text form: `msgId`, `fromId`, `deviceId`, `platform`, `version`, `sessionId`, `key`.
pub const ID_BYTES_MAX: usize = 64;
/// Longest token. The longest of ours is 32 hex digits, `%` and the app; the rest is headroom for tokens of a business backend.
pub const TOKEN_BYTES_MAX: usize = 256;
/// Smallest legal `appId`.
pub const APP_ID_MIN: i32 = 10_000;
/// The app that everything belongs to unless said otherwise.
pub const APP_ID_DEFAULT: i32 = 10_001;
/// Smallest legal `userId`.
pub const USER_ID_MIN: i64 = 10_000;
/// Largest id or sequence number: what a JavaScript number keeps exact.
pub const ID_MAX: i64 = (1 << 53) - 1;
/// Rooms in one `resume` list: the rooms one session may be in.
pub const RESUME_ROOMS_MAX: usize = 8;
/// Addresses in one RECONNECT: more choice would not spread a drain any better.
pub const ADDRESSES_MAX: usize = 16;

const _: () = assert!(BODY_BYTES_MAX <= i32::MAX as usize, "len is an i32 on the wire");
const _: () = assert!(LOGIN_BODY_BYTES_MAX <= BODY_BYTES_MAX, "a login is a body");
