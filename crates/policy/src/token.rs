//! Signed tokens (RFC 7519): which are believed, once their signature is known to be good.
//!
//! An issuer's word counts for one audience, between two moments of its own choosing, and only as long as the tenant has
//! not disowned what was issued before. Clocks of issuers and ours differ: each bound is met [`LEEWAY`] early or late. A
//! tenant's own bound has no leeway: it is how stolen tokens are shut out.

use core::fmt;
use core::time::Duration;

use crate::time::Timestamp;

/// How far an issuer's clock may be from ours.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// What a token says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Who issued it (`iss`).
    pub issuer: Option<String>,
    /// Whom it is for (`aud`).
    pub audience: Vec<String>,
    /// When it ends (`exp`).
    pub expires: Option<Timestamp>,
    /// When it begins (`nbf`), if it says so.
    pub not_before: Option<Timestamp>,
    /// When it was issued (`iat`), if it says so.
    pub issued: Option<Timestamp>,
}

/// Why a token with a good signature is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disbelief {
    /// It names no issuer, or another one than the owner of the key.
    Issuer,
    /// It is not for us.
    Audience,
    /// It never ends.
    Endless,
    /// It has ended.
    Expired,
    /// It has not begun, or was issued in time to come.
    TooEarly,
    /// The tenant takes only tokens issued after a moment, and it does not say when it was.
    Undated,
    /// It was issued before that moment.
    Revoked,
}

impl fmt::Display for Disbelief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Issuer => "its 'iss' is not the issuer whose key signed it",
            Self::Audience => "its 'aud' does not name this service",
            Self::Endless => "it has no 'exp', and only tokens that end are taken",
            Self::Expired => "it has expired: get a new one from its issuer",
            Self::TooEarly => "it is not valid yet: compare the issuer's clock with true time",
            Self::Undated => "it has no 'iat', which this account needs since it revoked earlier tokens",
            Self::Revoked => "it was issued before this account revoked its tokens: get a new one from its issuer",
        })
    }
}

/// Believes a token of `issuer` for `audience`, or says why not.
///
/// # Errors
/// The first [`Disbelief`] in the order of its variants, those about revocation excepted: see [`outlives_revocation`].
pub fn believe(claims: &Claims, issuer: &str, audience: &str, now: Timestamp) -> Result<(), Disbelief> {
    if claims.issuer.as_deref() != Some(issuer) {
        return Err(Disbelief::Issuer);
    }
    if !claims.audience.iter().any(|named| named == audience) {
        return Err(Disbelief::Audience);
    }
    let expires = claims.expires.ok_or(Disbelief::Endless)?;
    if expires.after(LEEWAY) <= now {
        return Err(Disbelief::Expired);
    }
    let early = |moment: Option<Timestamp>| moment.is_some_and(|moment| moment > now.after(LEEWAY));
    if early(claims.not_before) || early(claims.issued) {
        return Err(Disbelief::TooEarly);
    }
    Ok(())
}

/// Whether a token stands although its tenant disowned those issued before `bound`.
///
/// # Errors
/// [`Disbelief::Undated`] or [`Disbelief::Revoked`].
pub fn outlives_revocation(claims: &Claims, bound: Option<Timestamp>) -> Result<(), Disbelief> {
    let Some(bound) = bound else { return Ok(()) };
    match claims.issued {
        None => Err(Disbelief::Undated),
        Some(issued) if issued < bound => Err(Disbelief::Revoked),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    fn good() -> Claims {
        Claims {
            issuer: Some("them".to_owned()),
            audience: vec!["others".to_owned(), "us".to_owned()],
            expires: Some(at(1000)),
            not_before: Some(at(100)),
            issued: Some(at(100)),
        }
    }

    fn believed(claims: &Claims, secs: i64) -> Result<(), Disbelief> {
        believe(claims, "them", "us", at(secs))
    }

    #[test]
    fn a_token_is_believed_between_its_moments_with_leeway_at_both_ends() {
        assert_eq!(believed(&good(), 69), Err(Disbelief::TooEarly));
        for secs in [70, 100, 1000, 1029] {
            assert_eq!(believed(&good(), secs), Ok(()), "{secs}");
        }
        assert_eq!(believed(&good(), 1030), Err(Disbelief::Expired));
        assert_eq!(believed(&Claims { issued: Some(at(131)), ..good() }, 100), Err(Disbelief::TooEarly));
    }

    #[test]
    fn an_issuer_an_audience_and_an_end_are_needed_and_must_be_the_right_ones() {
        for (claims, why) in [
            (Claims { issuer: None, ..good() }, Disbelief::Issuer),
            (Claims { issuer: Some("them ".to_owned()), ..good() }, Disbelief::Issuer),
            (Claims { audience: Vec::new(), ..good() }, Disbelief::Audience),
            (Claims { audience: vec!["US".to_owned()], ..good() }, Disbelief::Audience),
            (Claims { expires: None, ..good() }, Disbelief::Endless),
        ] {
            assert_eq!(believed(&claims, 200), Err(why));
        }
        let undated = Claims { not_before: None, issued: None, ..good() };
        assert_eq!(believed(&undated, 200), Ok(()), "neither 'nbf' nor 'iat' is needed");
    }

    #[test]
    fn what_was_issued_before_a_revocation_is_disowned_to_the_millisecond() {
        assert_eq!(outlives_revocation(&good(), None), Ok(()));
        assert_eq!(outlives_revocation(&good(), Some(at(100))), Ok(()));
        let later = Some(Timestamp::from_millis(100_001));
        assert_eq!(outlives_revocation(&good(), later), Err(Disbelief::Revoked));
        let undated = Claims { issued: None, ..good() };
        assert_eq!(outlives_revocation(&undated, None), Ok(()));
        assert_eq!(outlives_revocation(&undated, later), Err(Disbelief::Undated));
    }

    #[test]
    fn moments_at_the_ends_of_time_decide_and_do_not_overflow() {
        let never = Claims { expires: Some(Timestamp::MAX), ..good() };
        assert_eq!(believed(&never, i64::MAX / 1000), Ok(()));
        let long_ago = Claims { expires: Some(Timestamp::from_millis(i64::MIN)), ..good() };
        assert_eq!(believed(&long_ago, 200), Err(Disbelief::Expired));
    }
}
