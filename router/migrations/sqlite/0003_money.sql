-- Money: accounts, entries, gifts, recharges.
--
-- Amounts are whole coins or beans, in BIGINT. No row here is ever deleted, but those of the outbox.

-- What everybody has. Kinds: 1 coins of a user, 2 beans of a user (what he was given), 4 where coins come from (user 0; below zero by what
-- was recharged). 3 is kept for the house. The sum over an app is 0.
CREATE TABLE t_account (
    app_id  INTEGER NOT NULL,
    kind    INTEGER NOT NULL CHECK (kind IN (1, 2, 3, 4)),
    user_id BIGINT  NOT NULL,
    balance BIGINT  NOT NULL CHECK (balance >= 0 OR kind IN (3, 4)),
    PRIMARY KEY (app_id, kind, user_id)
) WITHOUT ROWID;

-- Entries: two for everything that moves, each once, by what moved it. Kinds: 1 a gift (ref_a room, ref_b its gift_seq), 2 a recharge
-- (ref_a order, ref_b 0). No index by account: it would cost a third of the gifts a second, and only the look over everything would use it.
CREATE TABLE t_account_trade (
    kind         INTEGER NOT NULL,
    ref_a        BIGINT  NOT NULL,
    ref_b        BIGINT  NOT NULL,
    side         INTEGER NOT NULL,          -- 0 taken from the account, 1 given to it
    app_id       INTEGER NOT NULL,
    account_kind INTEGER NOT NULL,
    user_id      BIGINT  NOT NULL,
    amount       BIGINT  NOT NULL CHECK ((side = 0 AND amount < 0) OR (side = 1 AND amount > 0)),
    trade_time   BIGINT  NOT NULL,
    PRIMARY KEY (kind, ref_a, ref_b, side)
) WITHOUT ROWID;

-- The catalogue of gifts.
CREATE TABLE t_gift_config (
    id        BIGINT       NOT NULL PRIMARY KEY,
    gift_name VARCHAR(255) NOT NULL,
    price     BIGINT       NOT NULL CHECK (price >= 1),     -- coins
    cover_img VARCHAR(512) NOT NULL,
    url       VARCHAR(512) NOT NULL                         -- of the effect
);

INSERT INTO t_gift_config (id, gift_name, price, cover_img, url) VALUES
    (1, 'Rose', 1, '', ''),
    (2, 'Heart', 10, '', ''),
    (3, 'Bouquet', 50, '', ''),
    (4, 'Fireworks', 100, '', ''),
    (5, 'Crown', 200, '', ''),
    (6, 'Sports car', 1000, '', ''),
    (7, 'Yacht', 5000, '', ''),
    (8, 'Castle', 10000, '', '');

-- Gifts that were paid. gift_seq rises by one within a room, across all who have owned it.
CREATE TABLE t_gift_record (
    room_id     BIGINT      NOT NULL,
    gift_seq    BIGINT      NOT NULL,
    app_id      INTEGER     NOT NULL,
    sender_id   BIGINT      NOT NULL,
    uuid        VARCHAR(64) NOT NULL,       -- the sender's own id of it: never paid twice
    epoch       BIGINT      NOT NULL,       -- of the room's owner who had it paid
    receiver_id BIGINT      NOT NULL,
    gift_id     BIGINT      NOT NULL,
    num         BIGINT      NOT NULL CHECK (num >= 1),
    price       BIGINT      NOT NULL CHECK (price >= 1),        -- of one, then
    pk          INTEGER     NOT NULL CHECK (pk IN (0, 1, 2)),   -- 0 no PK gift, 1 for the anchor, 2 for the challenger
    combo       VARCHAR(64) NOT NULL,
    paid_time   BIGINT      NOT NULL,
    PRIMARY KEY (room_id, gift_seq),
    UNIQUE (app_id, sender_id, uuid)
) WITHOUT ROWID;

-- Gifts that are still to be told to their rooms.
CREATE TABLE t_outbox (
    room_id    BIGINT NOT NULL,
    gift_seq   BIGINT NOT NULL,
    since_time BIGINT NOT NULL,
    PRIMARY KEY (room_id, gift_seq)
) WITHOUT ROWID;

-- What can be bought.
CREATE TABLE t_recharge_product (
    id           BIGINT       NOT NULL PRIMARY KEY,
    product_name VARCHAR(255) NOT NULL,
    price_minor  BIGINT       NOT NULL CHECK (price_minor >= 1),    -- in the smallest unit of the currency
    currency     VARCHAR(8)   NOT NULL,                             -- ISO 4217
    coins        BIGINT       NOT NULL CHECK (coins >= 1)
);

INSERT INTO t_recharge_product (id, product_name, price_minor, currency, coins) VALUES
    (1, '60 coins', 600, 'CNY', 60),
    (2, '300 coins', 3000, 'CNY', 300),
    (3, '980 coins', 9800, 'CNY', 980),
    (4, '1,980 coins', 19800, 'CNY', 1980),
    (5, '6,480 coins', 64800, 'CNY', 6480);

-- Orders of coins.
CREATE TABLE t_recharge_order (
    id          BIGINT       NOT NULL PRIMARY KEY,
    app_id      INTEGER      NOT NULL,
    user_id     BIGINT       NOT NULL,
    product_id  BIGINT       NOT NULL,
    coins       BIGINT       NOT NULL CHECK (coins >= 1),
    price_minor BIGINT       NOT NULL CHECK (price_minor >= 1),
    currency    VARCHAR(8)   NOT NULL,
    status      INTEGER      NOT NULL,      -- 0 waiting, 1 paid and credited
    made_time   BIGINT       NOT NULL,
    paid_time   BIGINT       NOT NULL,      -- 0: not yet
    payment     VARCHAR(255) UNIQUE         -- the provider's id of it; NULL: none yet. One payment pays one order
);
