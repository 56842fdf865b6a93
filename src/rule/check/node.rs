//! The nodes of `match`: keywords, lists, macros, regexes.

use serde_saphyr::Spanned;

use super::super::file::{NodeFile, Text};
use super::super::{Keyword, Node, Pattern, ReadingKind, fold, lint, pattern, suggest};
use super::{Checker, MAX_DEPTH, MAX_KEYWORDS, MAX_REGEX, keyword};

impl Checker<'_> {
    pub(super) fn node(
        &mut self,
        file: &Spanned<NodeFile>,
        readings: u8,
        depth: usize,
    ) -> Option<Node> {
        let place = file.referenced;
        let file = &file.value;
        if depth > MAX_DEPTH {
            self.error(
                place,
                "too-deep",
                format!("nodes nest deeper than {MAX_DEPTH}"),
                None,
            );
            return None;
        }
        if depth > 0
            && let Some(readings) = &file.readings
        {
            self.error(
                readings.referenced,
                "nested-readings",
                "`readings` belongs to the top node of `match`".to_owned(),
                None,
            );
        }
        let before = self.failed;
        self.failed = false;
        let mut node = Node {
            within: file.within.as_ref().map(|w| self.within(w)),
            ..Node::default()
        };
        if let Some(keywords) = &file.keywords {
            self.keywords(keywords, &mut node.keywords);
        }
        if let Some(name) = &file.list {
            self.list(name, &mut node.keywords);
        }
        if node.keywords.len() > MAX_KEYWORDS {
            self.error(
                place,
                "many-keywords",
                format!("more than {MAX_KEYWORDS} keywords in one node"),
                None,
            );
        }
        if let Some(regex) = &file.regex {
            node.regex = self.pattern(regex, readings, !node.keywords.is_empty());
        }
        for (name, files, nodes) in [
            ("any", &file.any, &mut node.any),
            ("all", &file.all, &mut node.all),
            ("not", &file.not, &mut node.not),
        ] {
            let Some(files) = files else { continue };
            if files.value.is_empty() {
                self.error(
                    files.referenced,
                    "empty-list",
                    format!("`{name}` is empty"),
                    None,
                );
            }
            for child in &files.value {
                if let Some(child) = self.node(child, readings, depth + 1) {
                    nodes.push(child);
                }
            }
        }
        let empty = file.keywords.is_none()
            && file.list.is_none()
            && file.regex.is_none()
            && file.any.is_none()
            && file.all.is_none()
            && file.not.is_none();
        if empty {
            self.error(
                place,
                "empty-match",
                "match node holds no condition".to_owned(),
                Some("give it keywords, regex, list, any, all or not"),
            );
        }
        if let Some(within) = &file.within
            && node.all.is_empty()
            && node.not.is_empty()
            && !(node.regex.is_some() && !node.keywords.is_empty())
            && !self.failed
        {
            self.error(
                within.referenced,
                "useless-within",
                "`within` needs `all`, `not`, or keywords beside a regex".to_owned(),
                None,
            );
        }
        let ok = !self.failed;
        self.failed |= before;
        ok.then_some(node)
    }

    pub(super) fn keywords(&mut self, given: &Spanned<Vec<Text>>, out: &mut Vec<Keyword>) {
        if given.value.is_empty() {
            self.error(
                given.referenced,
                "empty-list",
                "`keywords` is empty".to_owned(),
                None,
            );
        }
        for text in &given.value {
            match keyword(&text.value) {
                Ok(keyword) if out.contains(&keyword) => self.warn(
                    text.referenced,
                    "twice",
                    format!("keyword `{}` stands twice (after folding)", text.value),
                    None,
                ),
                Ok(keyword) => out.push(keyword),
                Err(why) => self.error(text.referenced, "keyword", why, None),
            }
        }
    }

    fn list(&mut self, name: &Text, out: &mut Vec<Keyword>) {
        let Some(list) = self.lists.get(&name.value) else {
            self.unknown_list(name, &name.value, 0);
            return;
        };
        if list.phrases.is_empty() {
            self.error(
                name.referenced,
                "list-kind",
                format!(
                    "list `{}` is a regex fragment: use it as `${{{}}}`",
                    name.value, name.value
                ),
                None,
            );
        }
        out.extend(list.phrases.iter().filter_map(|p| keyword(&p.value).ok()));
    }

    fn unknown_list(&mut self, text: &Text, name: &str, column: usize) {
        let lists = self.lists;
        let hint = suggest::hint(name, lists.keys().map(String::as_str));
        self.error(
            text.referenced,
            "unknown-list",
            format!("no list is called `{name}`{hint}"),
            Some("lists live in rules/lists/<name>.yml"),
        );
        self.shift(column, name.chars().count());
    }

    /// Moves the caret of the last problem into its text.
    pub(super) fn shift(&mut self, by: usize, width: usize) {
        if let Some(last) = self.problems.last_mut() {
            let quoted = last
                .excerpt
                .chars()
                .nth(last.column.saturating_sub(1) as usize)
                .is_some_and(|c| matches!(c, '\'' | '"'));
            let by = by + usize::from(quoted);
            last.column = last.column.saturating_add(u32::try_from(by).unwrap_or(0));
            last.width = u32::try_from(width).unwrap_or(1).max(1);
        }
    }

    /// Expands `${name}`.
    fn expand(&mut self, text: &Text) -> Option<String> {
        let mut out = String::with_capacity(text.value.len());
        let mut rest = text.value.as_str();
        while let Some(start) = rest.find("${") {
            out.push_str(&rest[..start]);
            let after = &rest[start + 2..];
            let Some(end) = after.find('}') else {
                self.error(
                    text.referenced,
                    "macro",
                    "`${` without `}`".to_owned(),
                    None,
                );
                return None;
            };
            let name = &after[..end];
            let Some(list) = self.lists.get(name) else {
                let column = text.value.len() - rest.len() + start + 2;
                self.unknown_list(text, name, column);
                return None;
            };
            out.push_str("(?:");
            out.push_str(&list.fragment);
            out.push(')');
            rest = &after[end + 1..];
        }
        out.push_str(rest);
        Some(out)
    }

    fn pattern(&mut self, text: &Text, readings: u8, keywords: bool) -> Option<Pattern> {
        let expanded = self.expand(text)?;
        if expanded.len() > MAX_REGEX {
            self.error(
                text.referenced,
                "long-regex",
                format!("regex is longer than {MAX_REGEX} bytes"),
                None,
            );
            return None;
        }
        let folded_only = readings & ReadingKind::Raw.bit() == 0;
        let source = if folded_only {
            fold::regex_source(&expanded)
        } else {
            expanded
        };
        if self.known.compiled_in {
            return Some(Pattern::unstudied(source));
        }
        let found = match pattern::study(&source) {
            Ok(found) => found,
            Err(mistake) => {
                let help = if mistake.message.contains("look-around")
                    || mistake.message.contains("backreference")
                {
                    "regexes run in linear time: no look-around and no back-references; use `not` or `context`"
                } else {
                    "the syntax is that of the regex crate"
                };
                self.error(
                    text.referenced,
                    "regex",
                    format!("regex: {}", mistake.message),
                    Some(help),
                );
                if source == text.value {
                    self.shift(mistake.start, mistake.width);
                }
                return None;
            }
        };
        if let Err(why) = pattern::compiles(&source) {
            self.error(text.referenced, "regex-size", why, None);
            return None;
        }
        let hir = &found.study().hir;
        if found.study().min_len == 0 {
            self.error(
                text.referenced,
                "matches-empty",
                "regex matches the empty text, so it matches everywhere".to_owned(),
                Some("make at least one part required"),
            );
            return None;
        }
        if folded_only && lint::needs_upper_case(hir) {
            self.error(
                text.referenced,
                "upper-case",
                "regex needs an upper-case letter, but folded text has none".to_owned(),
                Some("write it in lower case, or set `readings: [raw]`"),
            );
            return None;
        }
        if lint::unbounded_gap(hir) {
            self.warn(
                text.referenced,
                "unbounded-gap",
                format!(
                    "a gap of any character has no bound (or more than {})",
                    lint::LONG_GAP
                ),
                Some("bound it: `.{0,40}` instead of `.*`"),
            );
        }
        if !pattern::is_fast(hir, pattern::LARGE_CACHE) {
            self.warn(
                text.referenced,
                "slow-regex",
                format!(
                    "the fast automaton of this regex does not fit {} KiB: each search is some ten times slower",
                    pattern::LARGE_CACHE >> 10
                ),
                Some(
                    "shorten its bounded repeats, or name the ASCII characters of a class instead of all others: `[!-~]{0,64}` is small, `[^\\s]{0,64}` is not",
                ),
            );
        }
        if lint::literal_free(&found, keywords) {
            self.warn(
                text.referenced,
                "literal-free",
                "no literal or keyword tells where to look: every text pays for this regex"
                    .to_owned(),
                Some("add `keywords`, or a literal of at least 3 characters"),
            );
        }
        Some(found)
    }
}
