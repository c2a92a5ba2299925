-- Kept answers and the tries of requests that need not come out the same; see penstock_service::ports.
CREATE TABLE answer (
    tenant    TEXT NOT NULL,
    digest    TEXT NOT NULL,
    copy      INTEGER NOT NULL,
    made      INTEGER NOT NULL,
    forgotten INTEGER NOT NULL,
    body      BLOB NOT NULL,               -- penstock_service::kept
    PRIMARY KEY (tenant, digest, copy)
);
CREATE INDEX answer_forgotten ON answer (forgotten);

CREATE TABLE attempt (
    tenant     TEXT NOT NULL,
    digest     TEXT NOT NULL,
    job        TEXT NOT NULL,
    until      INTEGER NOT NULL,           -- somebody waits until then
    holder     INTEGER NOT NULL,           -- who, a nonce
    deliveries INTEGER NOT NULL,
    expires    INTEGER NOT NULL,
    PRIMARY KEY (tenant, digest, job)
) WITHOUT ROWID;
CREATE INDEX attempt_expires ON attempt (expires);
