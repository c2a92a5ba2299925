-- Holds by name, their sums, and a third part of a tenant's bucket.
CREATE TABLE hold (
    key   TEXT NOT NULL,
    name  TEXT NOT NULL,
    units INTEGER NOT NULL,
    until INTEGER NOT NULL,
    note  TEXT NOT NULL,
    PRIMARY KEY (key, name)
) WITHOUT ROWID;

CREATE TABLE hold_total (
    key     TEXT PRIMARY KEY,
    total   INTEGER NOT NULL,              -- all holds, and what was used up
    touched INTEGER NOT NULL
) WITHOUT ROWID;

ALTER TABLE bucket ADD COLUMN tat2 INTEGER NOT NULL DEFAULT 0;
ALTER TABLE bucket ADD COLUMN gen2 INTEGER NOT NULL DEFAULT 0;
