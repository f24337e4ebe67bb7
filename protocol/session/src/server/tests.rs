use super::ServerSession;

#[test]
fn a_session_costs_no_more_than_its_80_bytes() {
    assert!(size_of::<ServerSession>() <= 80, "{}", size_of::<ServerSession>());
}
