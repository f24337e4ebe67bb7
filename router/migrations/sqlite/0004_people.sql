-- People: their phones, what they may do, and ids for new ones.
--
-- Times are Unix milliseconds.

-- Whose a phone is. Digits with the country's in front, without a plus.
CREATE TABLE t_user_phone (
    app_id    INTEGER     NOT NULL,
    phone     VARCHAR(16) NOT NULL,
    user_id   BIGINT      NOT NULL,
    made_time BIGINT      NOT NULL,
    PRIMARY KEY (app_id, phone),
    UNIQUE (app_id, user_id)
);

-- What users may do beyond the others. No row: nothing.
CREATE TABLE t_user_tag (
    app_id  INTEGER NOT NULL,
    user_id BIGINT  NOT NULL,
    tags    BIGINT  NOT NULL,               -- bits: 1 VIP, may open rooms
    PRIMARY KEY (app_id, user_id)
);

-- Ids, given out in segments of `step`. Who takes one raises the version that it has read, or has been too slow. `step` and, upwards,
-- `next_id` may be changed while routers run: each goes by it from its next segment on.
CREATE TABLE sequence_id_generator (
    name    VARCHAR(64) NOT NULL PRIMARY KEY,
    next_id BIGINT      NOT NULL,
    step    BIGINT      NOT NULL,
    version BIGINT      NOT NULL
);

-- Users begin above the ids of examples and tests, and far below those that loadgen makes up. Where a backend gives ids of its own, keep
-- clear of them.
INSERT INTO sequence_id_generator (name, next_id, step, version) VALUES ('user', 1000000, 1000, 0), ('order', 1000000, 1000, 0);
