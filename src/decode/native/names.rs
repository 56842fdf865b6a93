//! Names and ids. Sealed sources' are refused where they do not fit; trusted sources' are mapped, or
//! keyed where they may be what somebody wrote.

use super::super::name;
use super::super::reason::Reason;
use super::super::wire::Str;
use super::{Bad, Path, Reader};
use crate::event::SmolStr;
use crate::seal::{Domain, Keys};

impl Reader<'_, '_> {
    /// A name of the given alphabet. Trusted sources' names are mapped, never refused.
    pub(super) fn word(
        &self,
        path: Path<'_>,
        s: &Str<'_>,
        ok: fn(&str) -> bool,
        map: fn(&str) -> SmolStr,
    ) -> Result<SmolStr, Bad> {
        // Most names are of an alphabet without `@`, so the shape of an e-mail is looked for only
        // where it can stand.
        let good = ok(&s.0);
        let email = memchr::memchr(b'@', s.0.as_bytes()).is_some() && name::has_email(&s.0);
        if good && !email {
            return Ok(SmolStr::new(&s.0));
        }
        match self.keys {
            Some(k) if email => Ok(smol_str::format_smolstr!(
                "{}",
                k.pseudonym(Domain::User, self.tenant.as_deref(), &s.0)
            )),
            Some(_) => Ok(map(&s.0)),
            None if email => self.bad(Reason::UnsealedIdentity, path, Some(s)),
            None => self.bad(Reason::BadName, path, Some(s)),
        }
    }

    /// A trusted source's word under the key, where it cannot stand as it is: the same words stay the
    /// same and different ones differ, and nobody reads them.
    fn keyed(&self, keys: &Keys, s: &str) -> SmolStr {
        smol_str::format_smolstr!(
            "{}",
            keys.pseudonym(Domain::Name, self.tenant.as_deref(), s)
        )
    }

    /// The name of a thing that somebody set up: tenant, team, gateway, provider.
    pub(super) fn name(&self, path: Path<'_>, s: &Str<'_>) -> Result<SmolStr, Bad> {
        if let Some(k) = self.keys
            && !name::is_name(&s.0)
            && (name::words(&s.0) > name::MAX_WORDS || name::holds_number(&s.0))
        {
            return Ok(self.keyed(k, &s.0));
        }
        self.word(path, s, name::is_name, |s| {
            name::mapped(s, name::MAX_NAME, name::name_char)
        })
    }

    /// A name that comes with the request, such as a tool's or a document's: with blanks it may be what
    /// somebody wrote, or who.
    pub(super) fn free_name(&self, path: Path<'_>, s: &Str<'_>) -> Result<SmolStr, Bad> {
        match self.keys {
            Some(k) if name::words(&s.0) > 1 => Ok(self.keyed(k, &s.0)),
            _ => self.name(path, s),
        }
    }

    pub(super) fn maybe_free_name(
        &self,
        path: Path<'_>,
        s: Option<&Str<'_>>,
    ) -> Result<Option<SmolStr>, Bad> {
        s.map(|s| self.free_name(path, s)).transpose()
    }

    /// An event's id. One that does not fit is hashed whole: cut, it would be the id of many.
    pub(super) fn id(&self, path: Path<'_>, s: &Str<'_>) -> Result<SmolStr, Bad> {
        match self.keys {
            Some(k) if !name::is_id(&s.0) => Ok(self.keyed(k, &s.0)),
            _ => self.word(path, s, name::is_id, |s| SmolStr::new(s)),
        }
    }

    pub(super) fn maybe_name(
        &self,
        path: Path<'_>,
        s: Option<&Str<'_>>,
    ) -> Result<Option<SmolStr>, Bad> {
        s.map(|s| self.name(path, s)).transpose()
    }

    pub(super) fn model(&self, path: Path<'_>, s: &Str<'_>) -> Result<SmolStr, Bad> {
        if let Some(k) = self.keys
            && !name::is_model(&s.0)
            && (name::words(&s.0) > name::MAX_WORDS || name::holds_number(&s.0))
        {
            return Ok(self.keyed(k, &s.0));
        }
        self.word(path, s, name::is_model, |s| {
            name::mapped(s, name::MAX_MODEL, |c| c == '@' || name::name_char(c))
        })
    }

    /// A kind of error. Gateways put whole messages there, which may quote the request.
    pub(super) fn error(&self, path: Path<'_>, s: &Str<'_>) -> Result<SmolStr, Bad> {
        if self.keys.is_some() && (name::words(&s.0) > 1 || name::holds_number(&s.0)) {
            return Ok(SmolStr::new_static("other"));
        }
        self.word(path, s, name::is_error, |s| {
            name::mapped(&s.to_lowercase(), name::MAX_NAME, |c| {
                c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-')
            })
        })
    }
}
