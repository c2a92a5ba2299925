-- Documents that are found by name and walked through in the order of their names.
CREATE TABLE shelf (
    shelf   TEXT NOT NULL,
    name    TEXT NOT NULL,
    text    TEXT NOT NULL,
    version INTEGER NOT NULL,
    nonce   INTEGER NOT NULL,
    expires INTEGER,
    PRIMARY KEY (shelf, name)
) STRICT, WITHOUT ROWID;
