-- Tenants and pools as documents (JSON, penstock_service::control_record), and room for the board and for tallies.
CREATE TABLE tenant_record (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO tenant_record
    SELECT id, json_object('v', 1, 'ceiling', ceiling,
                           'requests', json_array(request_period_ns, request_burst),
                           'tokens', json_array(token_period_ns, token_burst)) FROM tenant;
DROP TABLE tenant;
ALTER TABLE tenant_record RENAME TO tenant;

CREATE TABLE pool_record (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO pool_record
    SELECT id, json_object('v', 1, 'model', model, 'context_length', context_length,
                           'tokens_per_byte', tokens_per_byte, 'usual_output_tokens', usual_output_tokens,
                           'created', created) FROM pool;
DROP TABLE pool;
ALTER TABLE pool_record RENAME TO pool;

CREATE TABLE board (
    key     TEXT PRIMARY KEY,
    text    TEXT NOT NULL,
    version INTEGER NOT NULL,
    nonce   INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE tally (
    key     TEXT PRIMARY KEY,
    expires INTEGER NOT NULL,
    nonce   INTEGER NOT NULL               -- of the last addition
) WITHOUT ROWID;

CREATE TABLE tally_count (
    tally TEXT NOT NULL,
    name  TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (tally, name)
) WITHOUT ROWID;
