-- Messages are received fairly between tenants: in the order of their start tags, in tokens. What an older program sent
-- goes first.
ALTER TABLE message ADD COLUMN tenant TEXT NOT NULL DEFAULT '';
ALTER TABLE message ADD COLUMN tag INTEGER NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN ends INTEGER NOT NULL DEFAULT 0; -- the tag at which the tenant's next one starts
CREATE INDEX message_fair ON message (queue, tag, id);
CREATE INDEX message_tenant ON message (queue, tenant, ends);

CREATE TABLE queue_clock (
    queue TEXT PRIMARY KEY,
    tag   INTEGER NOT NULL                 -- of the message received last
) WITHOUT ROWID;
