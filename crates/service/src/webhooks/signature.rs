//! Signatures as Standard Webhooks has them: HMAC-SHA-256 over `id.timestamp.body`
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>, "Signature scheme").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use penstock_policy::time::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// What messages of one endpoint are signed with: 256 random bits. Not to be printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Secret(String);

impl Secret {
    /// Makes a secret from random draws.
    pub(super) fn generate(mut draw: impl FnMut() -> u128) -> Self {
        let mut bytes = [0u8; 32];
        bytes[..16].copy_from_slice(&draw().to_le_bytes());
        bytes[16..].copy_from_slice(&draw().to_le_bytes());
        Self(STANDARD.encode(bytes))
    }

    /// The secret as its receiver writes it: `whsec_` and base 64.
    pub(super) fn expose(&self) -> String {
        format!("whsec_{}", self.0)
    }

    /// The headers that a message is sent with at a moment; `None` if the stored secret is damaged.
    pub(super) fn headers(&self, id: &str, now: Timestamp, body: &str) -> Option<Vec<(&'static str, String)>> {
        let key = STANDARD.decode(&self.0).ok()?;
        let timestamp = now.as_secs().to_string();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
        for part in [id, ".", &timestamp, ".", body] {
            mac.update(part.as_bytes());
        }
        let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        Some(vec![("webhook-id", id.to_owned()), ("webhook-timestamp", timestamp), ("webhook-signature", signature)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the reference implementations' own tests.
    #[test]
    fn a_message_is_signed_as_the_specification_s_example_is() {
        let secret = Secret("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
        let now = Timestamp::from_millis(1_614_265_330_000);
        let headers = secret.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", now, r#"{"test": 2432232314}"#).unwrap();
        assert_eq!(headers[2].1, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(headers[1].1, "1614265330");
    }
}
