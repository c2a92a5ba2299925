//! Who is calling: API keys, and signed tokens in their place.
//!
//! A key is `ps_<kid>_<secret>`. Stored is the SHA-256 of the secret under the key's id; the secret has 256 random
//! bits, so a plain hash is enough. Hashes are compared in constant time. A known key is remembered for
//! [`Timing::record_cache`](crate::config::Timing), which bounds how long a revoked one still works; an unknown one
//! for 10 s, so that guessing costs no reads. Tokens are read by the [`Tokens`](crate::ports::Tokens) port; a tenant that
//! revokes them is obeyed as soon as its record is read anew.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use http::{HeaderMap, header};
use penstock_policy::classes::Class;
use penstock_policy::id::{KeyId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_policy::token::outlives_revocation;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::Service;
use crate::error::ApiError;
use crate::ports::{Bearer, KeyRecord, Tenant};

const UNKNOWN_CACHE: Duration = Duration::from_secs(10);

/// The longest that a known key or tenant is remembered.
const RECORD_CACHE: Duration = Duration::from_secs(50);

/// How old the note of a key's use may get.
const USE_NOTED: Duration = Duration::from_secs(24 * 3600);

/// An API key as its owner holds it. Shown once, never stored.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: KeyId,
    secret: String,
}

impl ApiKey {
    /// Makes a key from random draws: 40 bits of id, 256 bits of secret.
    #[must_use]
    pub fn generate(mut draw: impl FnMut() -> u128) -> Self {
        let id = KeyId::from_bits((draw() >> 88) as u64);
        let mut secret = [0u8; 32];
        secret[..16].copy_from_slice(&draw().to_le_bytes());
        secret[16..].copy_from_slice(&draw().to_le_bytes());
        Self { id, secret: URL_SAFE_NO_PAD.encode(secret) }
    }

    /// Reads a key; `None` if it has not the form `ps_<kid>_<secret>`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix("ps_")?.split_once('_')?;
        (secret.len() <= 128).then_some(())?;
        Some(Self { id: KeyId::new(id).ok()?, secret: secret.to_owned() })
    }

    /// The key's id, which is no secret.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The record to store for the key, without label or time.
    #[must_use]
    pub fn record(&self, tenant: TenantId) -> KeyRecord {
        KeyRecord {
            id: self.id.clone(),
            tenant,
            secret_sha256: self.digest(),
            revoked: None,
            label: String::new(),
            created: Timestamp::EPOCH,
            used: None,
        }
    }

    /// The key as its owner writes it.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("ps_{}_{}", self.id, self.secret)
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.secret.as_bytes()).into()
    }
}

impl Service {
    /// Finds the tenant of a request by its `Authorization: Bearer` header. The terms of a tenant that a token speaks for
    /// have the token's ceiling.
    ///
    /// # Errors
    /// 401 if there is no key, it is malformed, unknown, wrong or revoked; the answer does not say which of the last
    /// three. Of a token that is not believed it says why. 503 if an issuer's keys cannot be had.
    pub async fn authenticate(&self, headers: &HeaderMap, now: Timestamp) -> Result<Tenant, ApiError> {
        let value = headers
            .get(header::AUTHORIZATION)
            .ok_or_else(|| ApiError::unauthorized("no API key: send the header 'Authorization: Bearer ps_...'"))?;
        let bearer = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).map(str::trim);
        if let (Some(tokens), Some(token)) = (&self.tokens, bearer.filter(|text| is_token(text))) {
            return self.bearer_of(tokens.read(token, now).await?, now).await;
        }
        let key = bearer.and_then(ApiKey::parse);
        let key = key.ok_or_else(|| ApiError::unauthorized("malformed API key: expected 'Bearer ps_<id>_<secret>'"))?;
        let wrong = || ApiError::unauthorized("this API key is not valid");
        let record = self.key_record(key.id(), now).await?.ok_or_else(wrong)?;
        let matches: bool = record.secret_sha256.ct_eq(&key.digest()).into();
        if !matches || record.revoked.is_some_and(|moment| moment <= now) {
            return Err(wrong());
        }
        self.note_use(&record, now);
        self.served(&record.tenant, now).await?.ok_or_else(wrong)
    }

    /// The tenant that a believed token speaks for, on the token's terms.
    async fn bearer_of(&self, bearer: Bearer, now: Timestamp) -> Result<Tenant, ApiError> {
        let unknown = || ApiError::disbelieved("it speaks for a tenant that is not known here");
        let tenant = self.served(&bearer.tenant, now).await?.ok_or_else(unknown)?;
        outlives_revocation(&bearer.claims, tenant.tokens_not_before)
            .map_err(|why| ApiError::disbelieved(&why.to_string()))?;
        Ok(Tenant { ceiling: Class::granted(bearer.ceiling, tenant.ceiling), ..tenant })
    }

    /// A tenant whose requests are taken.
    ///
    /// # Errors
    /// 403 if it is suspended.
    async fn served(&self, id: &TenantId, now: Timestamp) -> Result<Option<Tenant>, ApiError> {
        match self.tenant(id, now).await? {
            Some(tenant) if tenant.suspended => Err(ApiError::suspended()),
            found => Ok(found),
        }
    }

    /// Writes down that a key is in use: about once a day, beside the request and not before its answer.
    fn note_use(&self, record: &KeyRecord, now: Timestamp) {
        if record.used.is_some_and(|used| now.since(used) < USE_NOTED) {
            return;
        }
        let noted = KeyRecord { used: Some(now), ..record.clone() };
        self.caches.keys.put(record.id.clone(), Some(noted), now, self.record_cache());
        let (control, id) = (Arc::clone(&self.ports.control), record.id.clone());
        let task = async move {
            if let Err(error) = control.touch_key(&id, now).await {
                tracing::warn!(key = %id, %error, "the use of a key is not noted");
            }
        };
        self.ports.spawner.spawn(task.boxed());
    }

    /// How long keys and tenants are remembered: a store may show a revocation a second late, and together they stay
    /// within a minute.
    fn record_cache(&self) -> Duration {
        self.timing.record_cache.min(RECORD_CACHE)
    }

    async fn key_record(&self, id: &KeyId, now: Timestamp) -> Result<Option<KeyRecord>, ApiError> {
        let good_for = |found: &Option<KeyRecord>| if found.is_some() { self.record_cache() } else { UNKNOWN_CACHE };
        Ok(self.caches.keys.fetch(id, now, good_for, self.ports.control.key(id)).await?)
    }

    async fn tenant(&self, id: &TenantId, now: Timestamp) -> Result<Option<Tenant>, ApiError> {
        let good_for = |_: &Option<Tenant>| self.record_cache();
        Ok(self.caches.tenants.fetch(id, now, good_for, self.ports.control.tenant(id)).await?)
    }
}

/// Whether it has the form of a signed token: three parts of base64.
fn is_token(text: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    !text.starts_with("ps_") && text.split('.').count() == 3 && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_what_its_owner_writes() {
        let mut draws = 7u128;
        let key = ApiKey::generate(|| {
            draws = draws.wrapping_mul(0x2545_f491_4f6c_dd1d_2545_f491_4f6c_dd1d).wrapping_add(1);
            draws
        });
        let again = ApiKey::parse(&key.expose()).unwrap();
        assert!(again == key && again.digest() == key.digest());
    }

    #[test]
    fn texts_that_are_no_keys_are_refused() {
        for bad in ["", "sk-123", "ps_", "ps_abc", "ps_a#b_c", &format!("ps_a_{}", "x".repeat(200))] {
            assert!(ApiKey::parse(bad).is_none(), "{bad}");
        }
    }
}
