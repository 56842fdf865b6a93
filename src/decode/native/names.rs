//! Names and ids. Sealed sources' are refused where they do not fit. Trusted sources' stand as they are
//! where they fit and hold nothing of a person; else they are keyed, so that nobody reads them. Only what
//! somebody set up (a tenant, a team) is mapped, where it has blanks or letters of its language.

use super::super::name;
use super::super::reason::Reason;
use super::super::wire::Str;
use super::{Bad, Path, Reader};
use crate::event::SmolStr;
use crate::seal::{Domain, Keys};

impl Reader<'_, '_> {
    /// A sealed source's name of the given alphabet.
    fn word(&self, path: Path<'_>, s: &Str<'_>, ok: fn(&str) -> bool) -> Result<SmolStr, Bad> {
        // Most names are of an alphabet without `@`, so the shape of an e-mail is looked for only
        // where it can stand.
        if memchr::memchr(b'@', s.0.as_bytes()).is_some() && name::has_email(&s.0) {
            return self.bad(Reason::UnsealedIdentity, path, Some(s));
        }
        if !ok(&s.0) {
            return self.bad(Reason::BadName, path, Some(s));
        }
        Ok(SmolStr::new(&s.0))
    }

    /// A language.
    pub(super) fn lang(&self, path: Path<'_>, s: &Str<'_>) -> Result<SmolStr, Bad> {
        if self.keys.is_some() && !name::is_lang(&s.0) {
            return Ok(SmolStr::new_static("und"));
        }
        self.word(path, s, name::is_lang)
    }

    /// A trusted source's word under the key: the same words stay the same and different ones differ,
    /// and nobody reads them. An e-mail address becomes what it is as a user.
    fn keyed(&self, keys: &Keys, s: &str) -> SmolStr {
        let domain = if name::has_email(s) {
            Domain::User
        } else {
            Domain::Name
        };
        smol_str::format_smolstr!("{}", keys.pseudonym(domain, self.tenant.as_deref(), s))
    }

    /// The name of a thing that somebody set up: tenant, team, gateway, provider.
    pub(super) fn name(&self, path: Path<'_>, s: &Str<'_>) -> Result<SmolStr, Bad> {
        let Some(k) = self.keys else {
            return self.word(path, s, name::is_name);
        };
        Ok(if name::holds_number(&s.0) {
            self.keyed(k, &s.0)
        } else if name::is_name(&s.0) {
            SmolStr::new(&s.0)
        } else if name::is_set_up(&s.0) {
            name::mapped(&s.0, name::MAX_NAME, name::name_char)
        } else {
            self.keyed(k, &s.0)
        })
    }

    /// A name that comes with the request, such as a tool's or a document's: what does not fit may be
    /// what somebody wrote, or who.
    pub(super) fn free_name(&self, path: Path<'_>, s: &Str<'_>) -> Result<SmolStr, Bad> {
        match self.keys {
            Some(k) if name::holds_number(&s.0) || !name::is_name(&s.0) => Ok(self.keyed(k, &s.0)),
            _ => self.word(path, s, name::is_name),
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
            Some(k) if !name::is_id(&s.0) || name::holds_at(&s.0) => Ok(self.keyed(k, &s.0)),
            _ => self.word(path, s, name::is_id),
        }
    }

    pub(super) fn maybe_name(
        &self,
        path: Path<'_>,
        s: Option<&Str<'_>>,
    ) -> Result<Option<SmolStr>, Bad> {
        s.map(|s| self.name(path, s)).transpose()
    }

    /// A model's name: providers put paths, versions and `@` into them.
    pub(super) fn model(&self, path: Path<'_>, s: &Str<'_>) -> Result<SmolStr, Bad> {
        match self.keys {
            Some(k)
                if name::holds_number(&s.0) || name::has_email(&s.0) || !name::is_model(&s.0) =>
            {
                Ok(self.keyed(k, &s.0))
            }
            _ => self.word(path, s, name::is_model),
        }
    }

    /// A kind of error. Gateways put whole messages there, which may quote the request: what is no word
    /// of the alphabet is told as an error, and not as which.
    pub(super) fn error(&self, path: Path<'_>, s: &Str<'_>) -> Result<SmolStr, Bad> {
        if self.keys.is_none() {
            return self.word(path, s, name::is_error);
        }
        let lower = s.0.to_lowercase();
        Ok(if name::is_error(&lower) && !name::holds_number(&lower) {
            SmolStr::new(lower)
        } else {
            SmolStr::new_static("other")
        })
    }
}
