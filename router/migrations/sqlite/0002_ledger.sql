-- The name of these records: one row, made with the table and never changed. A shared state belongs to the records of one name.
CREATE TABLE t_ledger (
    one INTEGER     NOT NULL PRIMARY KEY CHECK (one = 1),
    id  VARCHAR(32) NOT NULL
);

INSERT INTO t_ledger (one, id) VALUES (1, lower(hex(randomblob(16))));
