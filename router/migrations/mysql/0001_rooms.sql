-- Rooms, moderation and profiles: the tables of migrations/sqlite/0001_rooms.sql.
--
-- Times are Unix milliseconds. A room's id is given by the database, rises, and is never given again: InnoDB keeps the counter on disk
-- (MySQL from 8.0, MariaDB from 10.2.4), also after the row has moved to t_living_room_record.
--
-- May run again after it broke off half-way.

-- Rooms that are live now. A closed one is not here, so the unique key means: one live room per anchor.
CREATE TABLE IF NOT EXISTS t_living_room (
    id         BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    app_id     INTEGER      NOT NULL,
    anchor_id  BIGINT       NOT NULL,
    type       INTEGER      NOT NULL,            -- 1 normal, 2 PK
    room_name  VARCHAR(255) NOT NULL,
    cover_img  VARCHAR(512) NOT NULL,
    status     INTEGER      NOT NULL,            -- 1 live
    start_time BIGINT       NOT NULL,
    epoch      BIGINT       NOT NULL DEFAULT 0,  -- raised by every new owner; sequence numbers begin with it
    UNIQUE KEY u_living_room_anchor (app_id, anchor_id),
    KEY i_living_room_list (type, start_time, id) -- the list of live rooms of a type, newest first
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- Rooms that were closed.
CREATE TABLE IF NOT EXISTS t_living_room_record (
    id         BIGINT       NOT NULL PRIMARY KEY,
    app_id     INTEGER      NOT NULL,
    anchor_id  BIGINT       NOT NULL,
    type       INTEGER      NOT NULL,
    room_name  VARCHAR(255) NOT NULL,
    cover_img  VARCHAR(512) NOT NULL,
    status     INTEGER      NOT NULL,            -- 0 closed
    start_time BIGINT       NOT NULL,
    end_time   BIGINT       NOT NULL,
    KEY i_living_room_record_anchor (app_id, anchor_id, end_time) -- what an anchor has done, newest first
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- Mutes and bans of live rooms.
CREATE TABLE IF NOT EXISTS t_room_moderation (
    room_id    BIGINT  NOT NULL,
    user_id    BIGINT  NOT NULL,
    kind       INTEGER NOT NULL,            -- 1 mute, 2 ban
    until_time BIGINT  NOT NULL,
    PRIMARY KEY (room_id, user_id, kind)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- Settings of live rooms.
CREATE TABLE IF NOT EXISTS t_room_setting (
    room_id      BIGINT NOT NULL PRIMARY KEY,   -- 0: a row to lock for what holds everywhere
    slow_mode_ms BIGINT NOT NULL                -- 0: no slow mode
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- Words that chat may not contain. Bytes, so that words which differ in a space at the end are two, as in SQLite.
CREATE TABLE IF NOT EXISTS t_block_word (
    room_id BIGINT          NOT NULL,       -- 0: everywhere
    word    VARBINARY(1020) NOT NULL,       -- UTF-8
    PRIMARY KEY (room_id, word)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- How users are shown to others.
CREATE TABLE IF NOT EXISTS t_user (
    app_id    INTEGER      NOT NULL,
    user_id   BIGINT       NOT NULL,
    nick_name VARCHAR(255) NOT NULL,
    avatar    VARCHAR(512) NOT NULL,
    PRIMARY KEY (app_id, user_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- Video streams: what an anchor's encoder must show the media server, and the room that its next publishing opens.
CREATE TABLE IF NOT EXISTS t_stream (
    app_id     INTEGER      NOT NULL,
    anchor_id  BIGINT       NOT NULL,
    stream_key VARCHAR(64)  NOT NULL,
    type       INTEGER      NOT NULL,
    room_name  VARCHAR(255) NOT NULL,
    cover_img  VARCHAR(512) NOT NULL,
    publisher  VARCHAR(255) NOT NULL,       -- the media server's name for the connection that publishes; empty: none
    PRIMARY KEY (app_id, anchor_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
