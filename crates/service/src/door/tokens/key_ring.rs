//! An issuer's public keys.

use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// The most keys of one issuer that are looked at.
const MOST_KEYS: usize = 100;

/// The keys of one set that can verify signatures.
#[derive(Default)]
pub(super) struct KeyRing {
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    /// The one algorithm it is for, if its issuer says so.
    algorithm: Option<String>,
    verifies: DecodingKey,
}

#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

impl KeyRing {
    /// Reads a JSON Web Key Set (RFC 7517). Keys of kinds that are not known here, for encryption, or shared secrets are
    /// left out, as the RFC asks: an issuer may publish what others need.
    ///
    /// # Errors
    /// If it is no such set.
    pub(super) fn read(text: &[u8]) -> Result<Self, serde_json::Error> {
        let Published { keys } = serde_json::from_slice(text)?;
        Ok(Self { keys: keys.into_iter().take(MOST_KEYS).filter_map(Key::read).collect() })
    }

    /// The key of that id that can verify that algorithm. A token without an id is for the only key that can.
    pub(super) fn choose(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let mut able = self.keys.iter().filter(|key| key.is_able(algorithm));
        let chosen = match id {
            Some(id) => able.find(|key| key.id.as_deref() == Some(id)),
            None => able.next().filter(|_| able.next().is_none()),
        };
        chosen.map(|key| &key.verifies)
    }
}

impl Key {
    fn read(published: Value) -> Option<Self> {
        let secret = published.get("kty").is_none_or(|kind| kind == "oct");
        let jwk: Jwk = serde_json::from_value(published.clone()).ok().filter(|_| !secret)?;
        let for_signatures = jwk.common.public_key_use.as_ref().is_none_or(|what| *what == PublicKeyUse::Signature);
        let algorithm = published.get("alg").and_then(Value::as_str).map(str::to_owned);
        let verifies = DecodingKey::from_jwk(&jwk).ok().filter(|_| for_signatures)?;
        Some(Self { id: jwk.common.key_id, algorithm, verifies })
    }

    fn is_able(&self, algorithm: Algorithm) -> bool {
        let said = self.algorithm.as_deref().is_none_or(|said| said == format!("{algorithm:?}"));
        said && self.verifies.family() == algorithm.family()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The public key of RFC 7515, A.3.
    fn elliptic(more: Value) -> Value {
        let mut key = json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key
    }

    fn ring(keys: Value) -> KeyRing {
        KeyRing::read(json!({"keys": keys}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_key_is_found_by_its_id_for_the_algorithms_it_is_for() {
        let ring = ring(json!([elliptic(json!({"kid": "a"})), elliptic(json!({"kid": "b", "alg": "ES384"}))]));
        assert!(ring.choose(Some("a"), Algorithm::ES256).is_some());
        assert!(ring.choose(Some("a"), Algorithm::RS256).is_none());
        assert!(ring.choose(Some("b"), Algorithm::ES256).is_none(), "it is for ES384 alone");
        assert!(ring.choose(Some("c"), Algorithm::ES256).is_none());
        assert!(ring.choose(None, Algorithm::ES256).is_some(), "one alone can verify it");
        assert!(ring.choose(None, Algorithm::ES384).is_none(), "two can");
    }

    #[test]
    fn what_is_of_no_use_is_left_out_and_spoils_nothing() {
        let ring = ring(json!([
            {"kty": "oct", "kid": "s", "k": "c2VjcmV0"}, {"kty": "AKP", "kid": "new"}, 7, {"kty": "RSA", "kid": "half"},
            elliptic(json!({"kid": "enc", "use": "enc"})), elliptic(json!({"kid": "sig", "use": "sig"})),
        ]));
        for (id, algorithm) in [("s", Algorithm::HS256), ("enc", Algorithm::ES256), ("half", Algorithm::RS256)] {
            assert!(ring.choose(Some(id), algorithm).is_none(), "{id}");
        }
        assert!(ring.choose(Some("sig"), Algorithm::ES256).is_some());
        assert!(KeyRing::read(b"<html>").is_err() && KeyRing::read(b"[]").is_err());
    }
}
