//! What an error of the Kafka client means: four classes.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The process cannot go on.
    Exit,
    /// A partition may have lost its place or hold something unreadable: look at all of them.
    Halt,
    /// It passes by itself; alert when it lasts.
    Retry,
    /// Normal in a rebalance; counted.
    Ignore,
}

impl Class {
    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Halt => "halt",
            Self::Retry => "retry",
            Self::Ignore => "ignore",
        }
    }
}

/// The class of a client error.
pub fn classify(e: &KafkaError) -> Class {
    if let KafkaError::MessageConsumptionFatal(_) = e {
        return Class::Exit;
    }
    e.rdkafka_error_code().map_or(Class::Retry, classify_code)
}

/// The class of an error code.
pub fn classify_code(code: Code) -> Class {
    match code {
        Code::Fatal
        | Code::FencedInstanceId
        | Code::UnsupportedVersion
        | Code::InconsistentGroupProtocol
        | Code::InvalidGroupId => Class::Exit,
        Code::AutoOffsetReset
        | Code::OffsetOutOfRange
        | Code::BadCompression
        | Code::BadMessage
        | Code::InvalidMessage => Class::Halt,
        Code::RebalanceInProgress
        | Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::State
        | Code::NoOffset
        | Code::PollExceeded
        | Code::PartitionEOF => Class::Ignore,
        // Brokers down, transport, name resolution, time-outs, authentication and rights at run
        // time, unknown topic: all can heal, and leaving would only move the trouble to a replica.
        _ => Class::Retry,
    }
}

/// Whether an error at start means that the credentials or rights are wrong.
pub fn is_denied(code: Code) -> bool {
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_reliability_3() {
        for (code, class) in [
            (Code::Fatal, Class::Exit),
            (Code::AutoOffsetReset, Class::Halt),
            (Code::BadCompression, Class::Halt),
            (Code::AllBrokersDown, Class::Retry),
            (Code::BrokerTransportFailure, Class::Retry),
            (Code::TopicAuthorizationFailed, Class::Retry),
            (Code::UnknownTopicOrPartition, Class::Retry),
            (Code::IllegalGeneration, Class::Ignore),
            (Code::NoOffset, Class::Ignore),
        ] {
            assert_eq!(classify_code(code), class, "{code:?}");
        }
        let fatal = KafkaError::MessageConsumptionFatal(Code::AllBrokersDown);
        assert_eq!(classify(&fatal), Class::Exit);
    }
}
