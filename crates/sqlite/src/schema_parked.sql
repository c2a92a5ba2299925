-- Jobs in state P: what is stored of them until they are sent; see penstock_service::ports::parking.
CREATE TABLE parked (
    job    TEXT NOT NULL UNIQUE,
    pool   TEXT NOT NULL,
    class  TEXT NOT NULL,
    tenant TEXT NOT NULL,
    due    INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    body   TEXT NOT NULL                   -- the message, penstock_service::stored::message
);
CREATE INDEX parked_next ON parked (pool, class, tenant, due, job, tokens);
