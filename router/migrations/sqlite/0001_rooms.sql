-- Rooms, moderation and profiles.
--
-- Times are Unix milliseconds. A room's id is given by the database, rises, and is never given again: AUTOINCREMENT remembers the largest
-- one also after its row has moved to t_living_room_record.

-- Rooms that are live now. A closed one is not here, so the unique key means: one live room per anchor.
CREATE TABLE t_living_room (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    app_id     INTEGER NOT NULL,
    anchor_id  BIGINT  NOT NULL,
    type       INTEGER NOT NULL,            -- 1 normal, 2 PK
    room_name  VARCHAR(255) NOT NULL,
    cover_img  VARCHAR(512) NOT NULL,
    status     INTEGER NOT NULL,            -- 1 live
    start_time BIGINT  NOT NULL,
    epoch      BIGINT  NOT NULL DEFAULT 0,  -- raised by every new owner; sequence numbers begin with it
    UNIQUE (app_id, anchor_id)
);

-- The list of live rooms of a type, newest first.
CREATE INDEX i_living_room_list ON t_living_room (type, start_time, id);

-- Rooms that were closed.
CREATE TABLE t_living_room_record (
    id         BIGINT  NOT NULL PRIMARY KEY,
    app_id     INTEGER NOT NULL,
    anchor_id  BIGINT  NOT NULL,
    type       INTEGER NOT NULL,
    room_name  VARCHAR(255) NOT NULL,
    cover_img  VARCHAR(512) NOT NULL,
    status     INTEGER NOT NULL,            -- 0 closed
    start_time BIGINT  NOT NULL,
    end_time   BIGINT  NOT NULL
);

-- What an anchor has done, newest first.
CREATE INDEX i_living_room_record_anchor ON t_living_room_record (app_id, anchor_id, end_time);

-- Mutes and bans of live rooms.
CREATE TABLE t_room_moderation (
    room_id    BIGINT  NOT NULL,
    user_id    BIGINT  NOT NULL,
    kind       INTEGER NOT NULL,            -- 1 mute, 2 ban
    until_time BIGINT  NOT NULL,
    PRIMARY KEY (room_id, user_id, kind)
);

-- Settings of live rooms.
CREATE TABLE t_room_setting (
    room_id      BIGINT NOT NULL PRIMARY KEY,
    slow_mode_ms BIGINT NOT NULL            -- 0: no slow mode
);

-- Words that chat may not contain.
CREATE TABLE t_block_word (
    room_id BIGINT       NOT NULL,          -- 0: everywhere
    word    VARCHAR(255) NOT NULL,
    PRIMARY KEY (room_id, word)
);

-- How users are shown to others.
CREATE TABLE t_user (
    app_id    INTEGER      NOT NULL,
    user_id   BIGINT       NOT NULL,
    nick_name VARCHAR(255) NOT NULL,
    avatar    VARCHAR(512) NOT NULL,
    PRIMARY KEY (app_id, user_id)
);

-- Video streams: what an anchor's encoder must show the media server, and the room that its next publishing opens.
CREATE TABLE t_stream (
    app_id     INTEGER      NOT NULL,
    anchor_id  BIGINT       NOT NULL,
    stream_key VARCHAR(64)  NOT NULL,
    type       INTEGER      NOT NULL,
    room_name  VARCHAR(255) NOT NULL,
    cover_img  VARCHAR(512) NOT NULL,
    publisher  VARCHAR(255) NOT NULL,       -- the media server's name for the connection that publishes; empty: none
    PRIMARY KEY (app_id, anchor_id)
);
