-- PKs that are on. The bar of one is made of the PK gifts of its room behind since_seq.
CREATE TABLE t_room_pk (
    room_id       BIGINT NOT NULL PRIMARY KEY,
    challenger_id BIGINT NOT NULL,
    since_seq     BIGINT NOT NULL,          -- place of the room's last gift before it began; 0: none
    start_time    BIGINT NOT NULL
);
