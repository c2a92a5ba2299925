-- Times are milliseconds since the epoch unless named _ns. Text ids are as in penstock_policy::id.
CREATE TABLE job (
    id          TEXT PRIMARY KEY,
    state       TEXT NOT NULL,             -- a letter, see penstock_policy::job::State
    epoch       INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    releases    INTEGER NOT NULL,
    interest    INTEGER NOT NULL,
    last_epoch  INTEGER,
    last_seq    INTEGER,
    unsettled   INTEGER NOT NULL,
    nonce       INTEGER NOT NULL,
    spec        TEXT,                      -- JSON, penstock_service::record; null in a tombstone
    owner       TEXT,
    digest      TEXT,
    started     INTEGER,
    finished    INTEGER,
    outcome     TEXT                       -- JSON, penstock_service::record
) WITHOUT ROWID;
CREATE INDEX job_unsettled ON job (id) WHERE unsettled = 1;

CREATE TABLE chunk (
    job          TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    parent_epoch INTEGER,
    parent_seq   INTEGER,
    ids          BLOB NOT NULL,            -- little-endian u32
    text         TEXT NOT NULL,
    PRIMARY KEY (job, epoch, seq)
) WITHOUT ROWID;

CREATE TABLE message (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    queue    TEXT NOT NULL,
    body     TEXT NOT NULL,
    sent     INTEGER NOT NULL,
    visible  INTEGER NOT NULL,             -- hidden from receivers until then
    receives INTEGER NOT NULL
);
CREATE INDEX message_next ON message (queue, visible);

CREATE TABLE bucket (
    key   TEXT PRIMARY KEY,
    tat0  INTEGER NOT NULL, gen0 INTEGER NOT NULL, -- tat in nanoseconds
    tat1  INTEGER NOT NULL, gen1 INTEGER NOT NULL,
    nonce INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE marker (
    tenant      TEXT NOT NULL,
    digest      TEXT NOT NULL,
    job         TEXT NOT NULL,
    fingerprint INTEGER NOT NULL,
    written     INTEGER NOT NULL,
    expires     INTEGER NOT NULL,
    PRIMARY KEY (tenant, digest)
) WITHOUT ROWID;

CREATE TABLE api_key (
    id            TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    secret_sha256 BLOB NOT NULL,
    revoked       INTEGER
) WITHOUT ROWID;

CREATE TABLE tenant (
    id                 TEXT PRIMARY KEY,
    ceiling            TEXT NOT NULL,
    request_period_ns  INTEGER NOT NULL, request_burst INTEGER NOT NULL,
    token_period_ns    INTEGER NOT NULL, token_burst   INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE pool (
    id                  TEXT PRIMARY KEY,
    model               TEXT NOT NULL,
    context_length      INTEGER NOT NULL,
    tokens_per_byte     REAL NOT NULL,
    usual_output_tokens INTEGER NOT NULL,
    created             INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE worker (
    pool              TEXT NOT NULL,
    id                TEXT NOT NULL,
    digest            TEXT NOT NULL,
    slots             INTEGER NOT NULL,
    tokens_per_second REAL NOT NULL,
    seen              INTEGER NOT NULL,
    draining          INTEGER NOT NULL,
    PRIMARY KEY (pool, id)
) WITHOUT ROWID;
