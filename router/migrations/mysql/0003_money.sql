-- Money: the tables of migrations/sqlite/0003_money.sql.
--
-- No table but the gifts' and the orders' has a second index, so whatever reads or locks its rows does so in the order of their keys. What
-- people choose as an id is kept in bytes: two that differ in a space at the end are two, as in SQLite.
--
-- May run again after it broke off half-way.

-- What everybody has. Kinds: 1 coins of a user, 2 beans of a user (what he was given), 4 where coins come from (user 0; below zero by what
-- was recharged). 3 is kept for the house. The sum over an app is 0.
CREATE TABLE IF NOT EXISTS t_account (
    app_id  INTEGER NOT NULL,
    kind    INTEGER NOT NULL,
    user_id BIGINT  NOT NULL,
    balance BIGINT  NOT NULL,
    PRIMARY KEY (app_id, kind, user_id),
    CHECK (kind IN (1, 2, 3, 4)),
    CHECK (balance >= 0 OR kind IN (3, 4))
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- Entries: two for everything that moves, each once, by what moved it. Kinds: 1 a gift (ref_a room, ref_b its gift_seq), 2 a recharge
-- (ref_a order, ref_b 0).
CREATE TABLE IF NOT EXISTS t_account_trade (
    kind         INTEGER NOT NULL,
    ref_a        BIGINT  NOT NULL,
    ref_b        BIGINT  NOT NULL,
    side         INTEGER NOT NULL,          -- 0 taken from the account, 1 given to it
    app_id       INTEGER NOT NULL,
    account_kind INTEGER NOT NULL,
    user_id      BIGINT  NOT NULL,
    amount       BIGINT  NOT NULL,
    trade_time   BIGINT  NOT NULL,
    PRIMARY KEY (kind, ref_a, ref_b, side),
    CHECK ((side = 0 AND amount < 0) OR (side = 1 AND amount > 0))
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- The catalogue of gifts.
CREATE TABLE IF NOT EXISTS t_gift_config (
    id        BIGINT       NOT NULL PRIMARY KEY,
    gift_name VARCHAR(255) NOT NULL,
    price     BIGINT       NOT NULL,        -- coins
    cover_img VARCHAR(512) NOT NULL,
    url       VARCHAR(512) NOT NULL,        -- of the effect
    CHECK (price >= 1)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

INSERT IGNORE INTO t_gift_config (id, gift_name, price, cover_img, url) VALUES
    (1, 'Rose', 1, '', ''),
    (2, 'Heart', 10, '', ''),
    (3, 'Bouquet', 50, '', ''),
    (4, 'Fireworks', 100, '', ''),
    (5, 'Crown', 200, '', ''),
    (6, 'Sports car', 1000, '', ''),
    (7, 'Yacht', 5000, '', ''),
    (8, 'Castle', 10000, '', '');

-- Gifts that were paid. gift_seq rises by one within a room, across all who have owned it.
CREATE TABLE IF NOT EXISTS t_gift_record (
    room_id     BIGINT        NOT NULL,
    gift_seq    BIGINT        NOT NULL,
    app_id      INTEGER       NOT NULL,
    sender_id   BIGINT        NOT NULL,
    uuid        VARBINARY(64) NOT NULL,     -- the sender's own id of it, UTF-8: never paid twice
    epoch       BIGINT        NOT NULL,     -- of the room's owner who had it paid
    receiver_id BIGINT        NOT NULL,
    gift_id     BIGINT        NOT NULL,
    num         BIGINT        NOT NULL,
    price       BIGINT        NOT NULL,     -- of one, then
    pk          INTEGER       NOT NULL,     -- 0 no PK gift, 1 for the anchor, 2 for the challenger
    combo       VARCHAR(64)   NOT NULL,
    paid_time   BIGINT        NOT NULL,
    PRIMARY KEY (room_id, gift_seq),
    UNIQUE KEY u_gift_record_uuid (app_id, sender_id, uuid),
    CHECK (num >= 1 AND price >= 1),
    CHECK (pk IN (0, 1, 2))
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- Gifts that are still to be told to their rooms.
CREATE TABLE IF NOT EXISTS t_outbox (
    room_id    BIGINT NOT NULL,
    gift_seq   BIGINT NOT NULL,
    since_time BIGINT NOT NULL,
    PRIMARY KEY (room_id, gift_seq)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- What can be bought.
CREATE TABLE IF NOT EXISTS t_recharge_product (
    id           BIGINT       NOT NULL PRIMARY KEY,
    product_name VARCHAR(255) NOT NULL,
    price_minor  BIGINT       NOT NULL,     -- in the smallest unit of the currency
    currency     VARCHAR(8)   NOT NULL,     -- ISO 4217
    coins        BIGINT       NOT NULL,
    CHECK (price_minor >= 1 AND coins >= 1)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

INSERT IGNORE INTO t_recharge_product (id, product_name, price_minor, currency, coins) VALUES
    (1, '60 coins', 600, 'CNY', 60),
    (2, '300 coins', 3000, 'CNY', 300),
    (3, '980 coins', 9800, 'CNY', 980),
    (4, '1,980 coins', 19800, 'CNY', 1980),
    (5, '6,480 coins', 64800, 'CNY', 6480);

-- Orders of coins.
CREATE TABLE IF NOT EXISTS t_recharge_order (
    id          BIGINT         NOT NULL PRIMARY KEY,
    app_id      INTEGER        NOT NULL,
    user_id     BIGINT         NOT NULL,
    product_id  BIGINT         NOT NULL,
    coins       BIGINT         NOT NULL,
    price_minor BIGINT         NOT NULL,
    currency    VARCHAR(8)     NOT NULL,
    status      INTEGER        NOT NULL,    -- 0 waiting, 1 paid and credited
    made_time   BIGINT         NOT NULL,
    paid_time   BIGINT         NOT NULL,    -- 0: not yet
    payment     VARBINARY(255) NULL,        -- the provider's id of it, UTF-8; NULL: none yet. One payment pays one order
    UNIQUE KEY u_recharge_order_payment (payment),
    CHECK (price_minor >= 1 AND coins >= 1)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
