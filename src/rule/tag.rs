//! The taxonomies that tags may name: OWASP LLM Top 10 (2025 and 2026 number differently),
//! OWASP Agentic, MITRE ATLAS 5.6.0, CWE and NIST AI 100-2. Versions are pinned here; an unknown
//! id is an error, so that a typing slip never becomes a tag nobody finds.

use super::suggest;

/// Version of MITRE ATLAS that the table follows.
pub const ATLAS_VERSION: &str = "5.6.0";

/// Tag and name.
pub const KNOWN: &[(&str, &str)] = &[
    ("owasp.llm01-2025", "Prompt Injection"),
    ("owasp.llm02-2025", "Sensitive Information Disclosure"),
    ("owasp.llm03-2025", "Supply Chain"),
    ("owasp.llm04-2025", "Data and Model Poisoning"),
    ("owasp.llm05-2025", "Improper Output Handling"),
    ("owasp.llm06-2025", "Excessive Agency"),
    ("owasp.llm07-2025", "System Prompt Leakage"),
    ("owasp.llm08-2025", "Vector and Embedding Weaknesses"),
    ("owasp.llm09-2025", "Misinformation"),
    ("owasp.llm10-2025", "Unbounded Consumption"),
    ("owasp.llm01-2026", "Prompt Injection"),
    ("owasp.llm02-2026", "Sensitive Information Disclosure"),
    ("owasp.llm03-2026", "Excessive Agency"),
    ("owasp.llm04-2026", "Supply Chain"),
    ("owasp.llm05-2026", "Data and Model Poisoning"),
    ("owasp.llm06-2026", "Unbounded Consumption"),
    ("owasp.llm07-2026", "Misinformation"),
    ("owasp.llm08-2026", "Hidden Context Exposure"),
    ("owasp.llm09-2026", "Vector and Embedding Weaknesses"),
    ("owasp.llm10-2026", "Improper Output Handling"),
    ("owasp.asi01-2026", "Agent Goal Hijack"),
    ("owasp.asi02-2026", "Tool Misuse and Exploitation"),
    ("owasp.asi03-2026", "Identity and Privilege Abuse"),
    ("owasp.asi04-2026", "Agentic Supply Chain Vulnerabilities"),
    ("owasp.asi05-2026", "Unexpected Code Execution"),
    ("owasp.asi06-2026", "Memory and Context Poisoning"),
    ("owasp.asi07-2026", "Insecure Inter-Agent Communication"),
    ("owasp.asi08-2026", "Cascading Failures"),
    ("owasp.asi09-2026", "Human-Agent Trust Exploitation"),
    ("owasp.asi10-2026", "Rogue Agents"),
    ("atlas.t0012", "Valid Accounts"),
    ("atlas.t0024", "Exfiltration via AI Inference API"),
    ("atlas.t0024.000", "Infer Training Data Membership"),
    ("atlas.t0024.001", "Invert AI Model"),
    ("atlas.t0024.002", "Extract AI Model"),
    ("atlas.t0029", "Denial of AI Service"),
    ("atlas.t0034", "Cost Harvesting"),
    ("atlas.t0034.000", "Excessive Queries"),
    ("atlas.t0034.001", "Resource-Intensive Queries"),
    ("atlas.t0034.002", "Agentic Resource Consumption"),
    ("atlas.t0040", "AI Model Inference API Access"),
    ("atlas.t0046", "Spamming AI System with Chaff Data"),
    ("atlas.t0048", "External Harms"),
    ("atlas.t0048.000", "Financial Harm"),
    ("atlas.t0048.003", "User Harm"),
    ("atlas.t0051", "LLM Prompt Injection"),
    ("atlas.t0051.000", "Direct"),
    ("atlas.t0051.001", "Indirect"),
    ("atlas.t0051.002", "Triggered"),
    ("atlas.t0053", "AI Agent Tool Invocation"),
    ("atlas.t0054", "LLM Jailbreak"),
    ("atlas.t0055", "Unsecured Credentials"),
    ("atlas.t0056", "Extract LLM System Prompt"),
    ("atlas.t0057", "LLM Data Leakage"),
    ("atlas.t0061", "LLM Prompt Self-Replication"),
    ("atlas.t0065", "LLM Prompt Crafting"),
    ("atlas.t0067", "LLM Trusted Output Components Manipulation"),
    ("atlas.t0067.000", "Citations"),
    ("atlas.t0068", "LLM Prompt Obfuscation"),
    ("atlas.t0069", "Discover LLM System Information"),
    ("atlas.t0069.000", "Special Character Sets"),
    ("atlas.t0069.001", "System Instruction Keywords"),
    ("atlas.t0069.002", "System Prompt"),
    ("atlas.t0070", "RAG Poisoning"),
    ("atlas.t0071", "False RAG Entry Injection"),
    ("atlas.t0077", "LLM Response Rendering"),
    ("atlas.t0080", "AI Agent Context Poisoning"),
    ("atlas.t0080.000", "Memory"),
    ("atlas.t0080.001", "Thread"),
    ("atlas.t0082", "RAG Credential Harvesting"),
    ("atlas.t0083", "Credentials from AI Agent Configuration"),
    ("atlas.t0086", "Exfiltration via AI Agent Tool Invocation"),
    ("atlas.t0092", "Manipulate User LLM Chat History"),
    ("atlas.t0094", "Delay Execution of LLM Instructions"),
    ("cwe.74", "Injection"),
    ("cwe.77", "Command Injection"),
    ("cwe.78", "OS Command Injection"),
    ("cwe.79", "Cross-site Scripting"),
    ("cwe.94", "Code Injection"),
    ("cwe.116", "Improper Encoding or Escaping of Output"),
    (
        "cwe.150",
        "Improper Neutralization of Escape, Meta, or Control Sequences",
    ),
    ("cwe.200", "Exposure of Sensitive Information"),
    (
        "cwe.201",
        "Insertion of Sensitive Information Into Sent Data",
    ),
    ("cwe.312", "Cleartext Storage of Sensitive Information"),
    ("cwe.319", "Cleartext Transmission of Sensitive Information"),
    ("cwe.321", "Use of Hard-coded Cryptographic Key"),
    ("cwe.345", "Insufficient Verification of Data Authenticity"),
    ("cwe.359", "Exposure of Private Personal Information"),
    ("cwe.400", "Uncontrolled Resource Consumption"),
    (
        "cwe.451",
        "User Interface Misrepresentation of Critical Information",
    ),
    ("cwe.506", "Embedded Malicious Code"),
    ("cwe.522", "Insufficiently Protected Credentials"),
    (
        "cwe.532",
        "Insertion of Sensitive Information into Log File",
    ),
    (
        "cwe.540",
        "Inclusion of Sensitive Information in Source Code",
    ),
    ("cwe.601", "URL Redirection to Untrusted Site"),
    ("cwe.693", "Protection Mechanism Failure"),
    (
        "cwe.770",
        "Allocation of Resources Without Limits or Throttling",
    ),
    ("cwe.798", "Use of Hard-coded Credentials"),
    ("cwe.918", "Server-Side Request Forgery"),
    ("cwe.1007", "Insufficient Visual Distinction of Homoglyphs"),
    ("cwe.1426", "Improper Validation of Generative AI Output"),
    (
        "cwe.1427",
        "Improper Neutralization of Input Used for LLM Prompting",
    ),
    ("nistaml.015", "Indirect Prompt Injection"),
    ("nistaml.018", "Prompt Injection"),
    ("nistaml.027", "Misaligned Outputs"),
    ("nistaml.031", "Model Extraction"),
    ("nistaml.033", "Membership Inference"),
    ("nistaml.035", "Prompt Extraction"),
    ("nistaml.036", "Leaking Information from User Interactions"),
    ("nistaml.038", "Data Extraction"),
    ("nistaml.039", "Compromising Connected Resources"),
];

/// The name behind a tag.
pub fn name(tag: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(id, _)| *id == tag).map(|(_, n)| *n)
}

/// Why a tag is refused, or nothing.
pub fn problem(tag: &str) -> Option<String> {
    if name(tag).is_some() {
        return None;
    }
    if let Some(rest) = tag.strip_prefix("owasp.") {
        let known = [format!("owasp.{rest}-2025"), format!("owasp.{rest}-2026")];
        if known.iter().any(|k| name(k).is_some()) {
            return Some(format!(
                "tag `{tag}` lacks the year: the 2025 and 2026 lists number differently, write `{}` or `{}`",
                known[0], known[1]
            ));
        }
    }
    Some(format!(
        "unknown tag `{tag}`{}",
        suggest::hint(tag, KNOWN.iter().map(|(id, _)| *id))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_checked_with_their_year() {
        assert_eq!(name("owasp.llm03-2026"), Some("Excessive Agency"));
        assert_eq!(problem("atlas.t0051.000"), None);
        assert!(problem("owasp.llm03").is_some_and(|p| p.contains("lacks the year")));
        assert!(problem("atlas.t0501").is_some_and(|p| p.contains("unknown tag")));
    }

    #[test]
    fn no_tag_stands_twice() {
        let mut ids: Vec<_> = KNOWN.iter().map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), KNOWN.len());
    }
}
