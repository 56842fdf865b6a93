//! Test outcomes as JUnit XML, for build servers.

use std::fmt::Write as _;

use crate::seal::engine::trial::Report;

/// The report as one `testsuite`.
pub(super) fn report(report: &Report) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        out,
        "<testsuite name=\"veilwatch rules\" tests=\"{}\" failures=\"{}\">",
        report.outcomes.len(),
        report.failures()
    );
    for o in &report.outcomes {
        let _ = write!(
            out,
            "  <testcase classname=\"{}\" name=\"{}\" file=\"{}\" line=\"{}\"",
            escape(&o.rule),
            escape(&o.name),
            escape(&o.file),
            o.line
        );
        match &o.failure {
            None => out.push_str("/>\n"),
            Some(why) => {
                let _ = writeln!(out, "><failure message=\"{}\"/></testcase>", escape(why));
            }
        }
    }
    out.push_str("</testsuite>\n");
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::trial::Outcome;
    use super::*;

    #[test]
    fn failures_are_escaped() {
        let outcome = Outcome {
            rule: "inj-x".into(),
            file: "rules/injection/inj-x.yml".to_owned(),
            line: 9,
            column: 5,
            name: "a \"b\" <c>".to_owned(),
            failure: Some("hits & should not".to_owned()),
        };
        let xml = report(&Report {
            outcomes: vec![outcome],
            uncovered: vec![],
        });
        assert!(xml.contains("tests=\"1\" failures=\"1\""));
        assert!(xml.contains("name=\"a &quot;b&quot; &lt;c&gt;\""));
        assert!(xml.contains("message=\"hits &amp; should not\""));
    }
}
