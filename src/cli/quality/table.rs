//! The tables of `docs/DETECTION.md`: measures as Markdown, put between two marks of a page.

use anyhow::{Context as _, bail};

use super::Measure;

/// The measures as one Markdown table.
pub(super) fn markdown(measures: &[Measure]) -> String {
    let mut out = String::from(
        "| section | source | measure | n | % | expected | |\n|---|---|---|---|---|---|---|\n",
    );
    for m in measures {
        let (expected, said) = match (m.expected, m.ok) {
            (Some(e), Some(ok)) => (format!("{e:.2}"), if ok { "ok" } else { "missed" }),
            _ => (String::new(), ""),
        };
        out.push_str(&format!(
            "| {} | {} | {} | {} | {:.2} | {expected} | {said} |\n",
            m.section, m.source, m.measure, m.n, m.percent
        ));
    }
    out
}

/// `page` with what stands between `<!-- table NAME -->` and `<!-- end NAME -->` replaced.
///
/// # Errors
/// If the page lacks one of the marks, or has them in the wrong order.
pub(super) fn put(page: &str, name: &str, table: &str) -> anyhow::Result<String> {
    let (open, close) = (
        format!("<!-- table {name} -->"),
        format!("<!-- end {name} -->"),
    );
    let from = page
        .find(&open)
        .with_context(|| format!("the page has no mark {open}; put it where the table goes"))?
        + open.len();
    let Some(to) = page[from..].find(&close).map(|at| from + at) else {
        bail!("the page has no mark {close} behind {open}");
    };
    Ok(format!("{}\n{table}{}", &page[..from], &page[to..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_goes_between_its_marks_and_nowhere_else() {
        let page = "a\n<!-- table dev -->\nold\n<!-- end dev -->\nb\n";
        assert_eq!(
            put(page, "dev", "new\n").expect("marks"),
            "a\n<!-- table dev -->\nnew\n<!-- end dev -->\nb\n"
        );
        assert!(put(page, "other", "new\n").is_err());
        assert!(put("<!-- table dev -->", "dev", "new\n").is_err());
    }

    #[test]
    fn rows_say_what_was_expected() {
        let m = Measure {
            section: "injection",
            source: "s".into(),
            measure: "recall",
            n: 4,
            percent: 75.0,
            expected: Some(92.0),
            ok: Some(false),
        };
        assert!(
            markdown(&[m]).ends_with("| injection | s | recall | 4 | 75.00 | 92.00 | missed |\n")
        );
    }
}
