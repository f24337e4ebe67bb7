-- PKs that are on: the table of migrations/sqlite/0005_pk.sql. May run again after it broke off half-way.

-- The bar of one is made of the PK gifts of its room behind since_seq.
CREATE TABLE IF NOT EXISTS t_room_pk (
    room_id       BIGINT NOT NULL PRIMARY KEY,
    challenger_id BIGINT NOT NULL,
    since_seq     BIGINT NOT NULL,          -- place of the room's last gift before it began; 0: none
    start_time    BIGINT NOT NULL
);
