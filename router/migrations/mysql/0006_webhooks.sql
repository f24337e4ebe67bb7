-- Webhooks: the tables of migrations/sqlite/0006_webhooks.sql. May run again after it broke off half-way.

-- Hooks. Whoever holds one sends its events, until holder_until; another takes it over then.
CREATE TABLE IF NOT EXISTS t_webhook (
    id             BIGINT        NOT NULL AUTO_INCREMENT PRIMARY KEY,
    app_id         INTEGER       NOT NULL,
    url            VARCHAR(1024) NOT NULL,
    events         BIGINT        NOT NULL,  -- bits: 1 room opened, 2 room closed, 4 user online, 8 user offline, 16 gift paid, 32 PK ended
    secret         VARCHAR(128)  NOT NULL,  -- what bodies are signed with
    state          INTEGER       NOT NULL,  -- 1 active, 2 disabled: its receiver has said that it is gone (410)
    made_time      BIGINT        NOT NULL,
    holder         VARCHAR(64)   NOT NULL,  -- name of the router that sends; empty: none does
    holder_life    BIGINT        NOT NULL,  -- which life of it
    holder_until   BIGINT        NOT NULL,
    waiting        BIGINT        NOT NULL,  -- events that wait, as the holder counted them last
    oldest_time    BIGINT        NOT NULL,  -- when the one that has waited longest was made; 0: none waits
    dropped        BIGINT        NOT NULL,  -- events that were not kept, for as many waited as may
    delivered_time BIGINT        NOT NULL,  -- when one was accepted last; 0: never
    failed_time    BIGINT        NOT NULL,  -- when a try failed last; 0: never
    problem        VARCHAR(255)  NOT NULL   -- why; may be empty
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- Events that wait, one row for each hook that wants it. What is of one room, or of one user, goes in the order of the ids: whoever writes one
-- has the room's row locked, so the ids of a room rise as its transactions end.
CREATE TABLE IF NOT EXISTS t_webhook_event (
    id        BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    hook_id   BIGINT       NOT NULL,
    lane      BIGINT       NOT NULL,        -- a room; below 0: a user
    event_id  VARCHAR(96)  NOT NULL,        -- what the receiver knows it by, whichever hook it came by
    kind      INTEGER      NOT NULL,        -- a bit, as in t_webhook
    body      TEXT         NOT NULL,        -- JSON, as it is sent
    made_time BIGINT       NOT NULL,
    tries     INTEGER      NOT NULL,        -- that have failed
    due_time  BIGINT       NOT NULL,        -- not before
    problem   VARCHAR(255) NOT NULL,        -- of the last try; may be empty
    KEY i_webhook_event_lane (hook_id, lane, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- Events that were given up, for people to look at. The id is that of the row it had.
CREATE TABLE IF NOT EXISTS t_webhook_given_up (
    id        BIGINT       NOT NULL PRIMARY KEY,
    hook_id   BIGINT       NOT NULL,
    event_id  VARCHAR(96)  NOT NULL,
    kind      INTEGER      NOT NULL,
    body      TEXT         NOT NULL,
    made_time BIGINT       NOT NULL,
    end_time  BIGINT       NOT NULL,        -- when it was given up
    tries     INTEGER      NOT NULL,
    problem   VARCHAR(255) NOT NULL,
    KEY i_webhook_given_up_hook (hook_id, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
