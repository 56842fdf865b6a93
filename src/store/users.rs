//! What is stored of users and names, for the partitions that meet them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::{Store, StoreError};
use crate::detect::Wanted;
use crate::event::{Pseudonym, SmolStr, Time, TopicPartition};

/// One user's stored state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredUser {
    /// Whose.
    pub user: Pseudonym,
    /// Offset up to which it is applied, in the partition it was written for.
    pub as_of: i64,
    /// The state.
    pub state: Vec<u8>,
    /// It was written for another partition: a copy to go on learning from.
    pub copy: bool,
}

/// What is stored of the pseudonyms that a partition asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// (name, oldest known, when its use was last noted). Names that are missing here have no older one.
    pub names: Vec<(Pseudonym, Pseudonym, Time)>,
    /// Rows under the oldest names.
    pub users: Vec<StoredUser>,
}

impl Store {
    /// What is stored of pseudonyms, for each partition: oldest names, and users' state: the partition's
    /// own row, else the newest of another partition. One query, however many partitions ask.
    pub async fn load_users(
        &self,
        wanted: &[(TopicPartition, Vec<(Pseudonym, Wanted)>)],
    ) -> Result<Vec<Loaded>, StoreError> {
        let what = "could not load users' state";
        let asked: BTreeSet<(Pseudonym, Wanted)> =
            wanted.iter().flat_map(|(_, w)| w).copied().collect();
        if asked.is_empty() {
            return Ok(vec![Loaded::default(); wanted.len()]);
        }
        let rows = sqlx::query(
            "SELECT w.id, w.kind, a.old_id, (extract(epoch FROM a.at) * 1000)::bigint,
                    s.topic, s.part, s.as_of, s.at_ms, s.state
               FROM unnest($1::text[], $2::smallint[]) AS w (id, kind)
               LEFT JOIN vw.alias a ON w.kind > 0 AND a.new_id = w.id COLLATE \"C\"
               LEFT JOIN vw.user_state s ON w.kind < 2 AND s.user_id = coalesce(a.old_id, w.id) COLLATE \"C\"",
        )
        .bind(asked.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>())
        .bind(
            asked
                .iter()
                .map(|(_, what)| match what {
                    Wanted::Row => 0_i16,
                    Wanted::NameAndRow => 1,
                    Wanted::Name => 2,
                })
                .collect::<Vec<_>>(),
        )
        .fetch_all(self.writers())
        .await
        .map_err(StoreError::statement(what))?;
        let name = |text: &str| {
            text.parse::<Pseudonym>().map_err(|e| StoreError::Corrupt {
                what: "a user's state",
                said: format!("{e}"),
            })
        };
        let mut names: HashMap<Pseudonym, (Pseudonym, Time)> = HashMap::new();
        let mut found: HashMap<Pseudonym, Vec<&PgRow>> = HashMap::with_capacity(rows.len());
        for r in &rows {
            let mut id = name(r.get(0))?;
            if let Some(old) = r.get::<Option<&str>, _>(2) {
                let old = name(old)?;
                names.insert(id, (old, Time(r.get(3))));
                id = old;
            }
            if r.get::<Option<&str>, _>(4).is_some() {
                found.entry(id).or_default().push(r);
            }
        }
        let stored = |tp: &TopicPartition, user: &Pseudonym| {
            let place = |r: &PgRow| (SmolStr::new(r.get::<&str, _>(4)), r.get::<i32, _>(5));
            let own = |r: &PgRow| {
                r.get::<&str, _>(4) == tp.topic.as_str() && r.get::<i32, _>(5) == tp.partition
            };
            let rows = found.get(user)?;
            let row = rows.iter().min_by(|a, b| {
                let newest = b.get::<i64, _>(7).cmp(&a.get::<i64, _>(7));
                let own = own(b).cmp(&own(a));
                own.then(newest).then_with(|| place(a).cmp(&place(b)))
            })?;
            Some(StoredUser {
                user: *user,
                as_of: row.get(6),
                state: row.get(8),
                copy: !own(row),
            })
        };
        Ok(wanted
            .iter()
            .map(|(tp, asked)| {
                let mut loaded = Loaded::default();
                let mut users = BTreeSet::new();
                for (id, what) in asked {
                    let known = (*what != Wanted::Row).then(|| names.get(id)).flatten();
                    if let Some((old, at)) = known {
                        loaded.names.push((*id, *old, *at));
                    }
                    let user = known.map_or(*id, |(old, _)| *old);
                    if *what != Wanted::Name && users.insert(user) {
                        loaded.users.extend(stored(tp, &user));
                    }
                }
                loaded
            })
            .collect())
    }

    /// The oldest known names of pseudonyms that have one, and when its use was last noted.
    pub async fn aliases(
        &self,
        names: &BTreeSet<Pseudonym>,
    ) -> Result<BTreeMap<Pseudonym, (Pseudonym, Time)>, StoreError> {
        let rows = sqlx::query(
            "SELECT new_id, old_id, (extract(epoch FROM at) * 1000)::bigint FROM vw.alias WHERE new_id = ANY ($1)",
        )
        .bind(names.iter().map(ToString::to_string).collect::<Vec<_>>())
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not load the aliases"))?;
        Ok(rows
            .iter()
            .filter_map(|r| {
                let oldest = r.get::<&str, _>(1).parse().ok()?;
                Some((r.get::<&str, _>(0).parse().ok()?, (oldest, Time(r.get(2)))))
            })
            .collect())
    }
}
