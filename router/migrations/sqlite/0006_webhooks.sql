-- Webhooks: who is told of what, and what he is still to be told.
--
-- Times are Unix milliseconds. A hook's id is never given again: what was written for one that is gone belongs to nobody.

-- Hooks. Whoever holds one sends its events, until holder_until; another takes it over then.
CREATE TABLE t_webhook (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
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
);

-- Events that wait, one row for each hook that wants it. What is of one room, or of one user, goes in the order of the ids.
CREATE TABLE t_webhook_event (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    hook_id   BIGINT       NOT NULL,
    lane      BIGINT       NOT NULL,        -- a room; below 0: a user
    event_id  VARCHAR(96)  NOT NULL,        -- what the receiver knows it by, whichever hook it came by
    kind      INTEGER      NOT NULL,        -- a bit, as in t_webhook
    body      TEXT         NOT NULL,        -- JSON, as it is sent
    made_time BIGINT       NOT NULL,
    tries     INTEGER      NOT NULL,        -- that have failed
    due_time  BIGINT       NOT NULL,        -- not before
    problem   VARCHAR(255) NOT NULL         -- of the last try; may be empty
);

-- The first of each lane.
CREATE INDEX i_webhook_event_lane ON t_webhook_event (hook_id, lane, id);

-- Events that were given up, for people to look at. The id is that of the row it had.
CREATE TABLE t_webhook_given_up (
    id        BIGINT       NOT NULL PRIMARY KEY,
    hook_id   BIGINT       NOT NULL,
    event_id  VARCHAR(96)  NOT NULL,
    kind      INTEGER      NOT NULL,
    body      TEXT         NOT NULL,
    made_time BIGINT       NOT NULL,
    end_time  BIGINT       NOT NULL,        -- when it was given up
    tries     INTEGER      NOT NULL,
    problem   VARCHAR(255) NOT NULL
);

CREATE INDEX i_webhook_given_up_hook ON t_webhook_given_up (hook_id, id);
