-- The name of these records: one row, made with the table and never changed. A shared state belongs to the records of one name.
--
-- May run again after it broke off half-way: the first name stays.
CREATE TABLE IF NOT EXISTS t_ledger (
    one INTEGER     NOT NULL PRIMARY KEY,   -- always 1
    id  VARCHAR(32) NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

INSERT IGNORE INTO t_ledger (one, id) VALUES (1, MD5(CONCAT(UUID(), RAND())));
