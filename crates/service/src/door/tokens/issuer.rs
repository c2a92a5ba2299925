//! The issuers of signed tokens that a deployment trusts, as configured.

use std::collections::BTreeMap;

use penstock_policy::address::Reach;
use penstock_policy::classes::Class;
use penstock_policy::id::TenantId;
use serde::Deserialize;

use crate::outward::check_url;

/// How a token may be signed: with a key whose public half verifies and cannot sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of RFC 7518 and RFC 8037")]
pub enum SigningAlgorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl SigningAlgorithm {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Rs256, "RS256"),
        (Self::Rs384, "RS384"),
        (Self::Rs512, "RS512"),
        (Self::Ps256, "PS256"),
        (Self::Ps384, "PS384"),
        (Self::Ps512, "PS512"),
        (Self::Es256, "ES256"),
        (Self::Es384, "ES384"),
        (Self::EdDsa, "EdDSA"),
    ];

    /// The algorithm of that name in a token's `alg`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(algorithm, _)| algorithm)
    }
}

/// One issuer, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerConfig {
    /// What its tokens have in `iss`, letter by letter.
    pub issuer: String,
    /// What they must have in `aud`.
    pub audience: String,
    /// Where its keys are, a JSON Web Key Set.
    pub jwks_url: String,
    /// How they may be signed.
    pub algorithms: Vec<SigningAlgorithm>,
    /// The claim that says for which tenant a token speaks.
    pub tenant_claim: String,
    /// The tenants by the values of that claim. Empty: the claim holds the tenant's id itself, any tenant's.
    pub tenants: BTreeMap<String, TenantId>,
    /// The claim that says which class a token may have at best, if there is one.
    pub class_claim: Option<String>,
    /// The best class any of its tokens may have; the tenant's own ceiling holds besides.
    pub ceiling: Class,
    /// How far the address of its keys may reach.
    pub reach: Reach,
}

/// Why a configuration of issuers cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIssuer {
    /// The text is no list of issuers.
    #[error("the issuers are not a JSON list as the README describes it: {0}")]
    Malformed(String),
    /// One of them is wrong.
    #[error("issuer '{issuer}': {problem}")]
    Wrong {
        /// Which.
        issuer: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    issuer: String,
    audience: String,
    jwks_url: String,
    algorithms: Vec<String>,
    tenant_claim: Option<String>,
    #[serde(default)]
    tenants: BTreeMap<String, String>,
    class_claim: Option<String>,
    class: Option<String>,
    reach: Option<String>,
}

impl IssuerConfig {
    /// Reads a JSON list of issuers.
    ///
    /// # Errors
    /// [`InvalidIssuer`] about the first that is wrong.
    pub fn list(text: &str) -> Result<Vec<Self>, InvalidIssuer> {
        let raw: Vec<Raw> = serde_json::from_str(text).map_err(|error| InvalidIssuer::Malformed(error.to_string()))?;
        let list: Vec<Self> = raw.into_iter().map(Self::checked).collect::<Result<_, _>>()?;
        for (place, config) in list.iter().enumerate() {
            if list[..place].iter().any(|other| other.issuer == config.issuer) {
                return Err(wrong(&config.issuer, "it is listed twice"));
            }
        }
        Ok(list)
    }

    fn checked(raw: Raw) -> Result<Self, InvalidIssuer> {
        let wrong = |problem: &str| wrong(&raw.issuer, problem);
        if raw.issuer.is_empty() || raw.audience.is_empty() {
            return Err(wrong("'issuer' and 'audience' must say what the tokens have in 'iss' and 'aud'"));
        }
        let reach = raw.reach.as_deref().map_or(Some(Reach::Public), Reach::from_name);
        let reach = reach.ok_or_else(|| wrong("'reach' must be public, loopback or private"))?;
        check_url(&raw.jwks_url, reach).map_err(|barred| wrong(&barred.to_string().replace("'url'", "'jwks_url'")))?;
        let algorithms: Option<Vec<_>> = raw.algorithms.iter().map(|name| SigningAlgorithm::from_name(name)).collect();
        let algorithms = algorithms.filter(|known| !known.is_empty()).ok_or_else(|| {
            let known: Vec<&str> = SigningAlgorithm::ALL.iter().map(|(_, name)| *name).collect();
            wrong(&format!("'algorithms' must list some of {}; no shared secrets, and never none", known.join(", ")))
        })?;
        let ceiling = raw.class.as_deref().map_or(Some(Class::P0), Class::from_name);
        let ceiling = ceiling.ok_or_else(|| wrong("'class' must be p0, p1, p2 or p3"))?;
        let mut tenants = BTreeMap::new();
        for (claimed, tenant) in &raw.tenants {
            let tenant =
                TenantId::new(tenant).map_err(|error| wrong(&format!("'tenants' names '{tenant}': {error}")))?;
            tenants.insert(claimed.clone(), tenant);
        }
        Ok(Self {
            tenant_claim: raw.tenant_claim.clone().unwrap_or_else(|| "tenant".to_owned()),
            class_claim: raw.class_claim.clone(),
            issuer: raw.issuer,
            audience: raw.audience,
            jwks_url: raw.jwks_url,
            algorithms,
            tenants,
            ceiling,
            reach,
        })
    }

    /// The tenant that a value of the claim stands for.
    #[must_use]
    pub fn tenant(&self, claimed: &str) -> Option<TenantId> {
        if self.tenants.is_empty() { TenantId::new(claimed).ok() } else { self.tenants.get(claimed).cloned() }
    }
}

fn wrong(issuer: &str, problem: &str) -> InvalidIssuer {
    InvalidIssuer::Wrong { issuer: issuer.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(more: Value) -> Result<IssuerConfig, InvalidIssuer> {
        let mut one = json!({"issuer": "https://id.example.com", "audience": "penstock",
            "jwks_url": "https://id.example.com/keys?of=us", "algorithms": ["RS256", "ES256"]});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        IssuerConfig::list(&json!([one]).to_string()).map(|mut list| list.remove(0))
    }

    #[test]
    fn an_issuer_is_read_with_what_is_usual() {
        let issuer = read(json!({})).unwrap();
        assert_eq!(issuer.algorithms, [SigningAlgorithm::Rs256, SigningAlgorithm::Es256]);
        assert_eq!((issuer.tenant_claim.as_str(), issuer.ceiling), ("tenant", Class::P0));
        assert_eq!(issuer.tenant("acme"), TenantId::new("acme").ok());
        assert_eq!(issuer.tenant("no tenant's id"), None);
    }

    #[test]
    fn with_a_map_a_token_speaks_for_the_tenants_in_it_alone() {
        let issuer = read(json!({"tenants": {"org-7": "acme"}})).unwrap();
        assert_eq!(issuer.tenant("org-7"), TenantId::new("acme").ok());
        assert_eq!(issuer.tenant("acme"), None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (more, word) in [
            (json!({"algorithms": []}), "'algorithms'"),
            (json!({"algorithms": ["RS256", "HS256"]}), "shared secrets"),
            (json!({"algorithms": ["none"]}), "never none"),
            (json!({"algorithms": ["rs256"]}), "'algorithms'"),
            (json!({"audience": ""}), "'audience'"),
            (json!({"jwks_url": "http://id.example.com/keys"}), "'jwks_url'"),
            (json!({"jwks_url": "https://169.254.169.254/keys", "reach": "private"}), "out of reach"),
            (json!({"class": "best"}), "'class'"),
            (json!({"tenants": {"org": "a b"}}), "'tenants'"),
            (json!({"reach": "everywhere"}), "'reach'"),
            (json!({"secret": "x"}), "secret"),
        ] {
            let problem = read(more).unwrap_err().to_string();
            assert!(problem.contains(word), "{problem}");
        }
        assert!(IssuerConfig::list("{}").is_err());
    }
}
