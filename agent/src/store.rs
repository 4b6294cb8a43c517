//! The agent's memory on disk: definitions, clusters, tasks and this host's own identity.
//!
//! One [redb] database. A write is on disk when the call returns, so that what follows it can be
//! found again after a crash. Opening it takes the file's lock: one engine at a time owns a state
//! folder.

use std::path::Path;

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};

use crate::task::Task;
use crate::task_definition::TaskDefinition;

const DEFINITIONS: TableDefinition<(&str, u32), &[u8]> = TableDefinition::new("definitions");
const CLUSTERS: TableDefinition<&str, ()> = TableDefinition::new("clusters");
const TASKS: TableDefinition<&str, &[u8]> = TableDefinition::new("tasks");
const IDENTITY: TableDefinition<&str, &str> = TableDefinition::new("identity");

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has it open.
    #[error("another berth uses this state folder already")]
    Locked,
    /// The database, or the disk below it.
    #[error("the state database: {0}")]
    Database(#[from] redb::Error),
    /// A record that this version can't read.
    #[error("a record in the state database: {0}")]
    Record(#[from] serde_json::Error),
}

/// The open database.
pub struct Store {
    database: Database,
}

type Result<T, E = StoreError> = std::result::Result<T, E>;

impl Store {
    /// Opens `path`, or makes it. [`StoreError::Locked`] where another process has it.
    pub fn open(path: &Path) -> Result<Self> {
        let database = Database::create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::Locked,
            other => StoreError::Database(other.into()),
        })?;
        let store = Self { database };
        // Opening happens at each `berth run`, and a write costs what the disk takes to flush.
        if !store.is_complete()? {
            store.write(|transaction| {
                transaction.open_table(DEFINITIONS)?;
                transaction.open_table(TASKS)?;
                transaction.open_table(IDENTITY)?;
                transaction.open_table(CLUSTERS)?.insert("default", ())?;
                Ok(())
            })?;
        }
        Ok(store)
    }

    /// Whether the tables are there: one transaction makes them all.
    fn is_complete(&self) -> Result<bool> {
        self.read(|transaction| Ok(transaction.list_tables()?.next().is_some()))
    }

    fn write<T>(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T> {
        let transaction = self.database.begin_write().map_err(redb::Error::from)?;
        let result = change(&transaction)?;
        transaction.commit().map_err(redb::Error::from)?;
        Ok(result)
    }

    fn read<T>(
        &self,
        look: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T> {
        Ok(look(
            &self.database.begin_read().map_err(redb::Error::from)?,
        )?)
    }

    /// Stores the definition as the next revision of its family, and returns it with that number.
    pub fn add_definition(&self, mut definition: TaskDefinition) -> Result<TaskDefinition> {
        // One transaction: nobody else has the number that is looked up in it.
        self.write(|transaction| {
            let mut table = transaction.open_table(DEFINITIONS)?;
            let family = definition.family.clone();
            let last = table
                .range((family.as_str(), 0)..=(family.as_str(), u32::MAX))?
                .next_back()
                .transpose()?
                .map_or(0, |(key, _)| key.value().1);
            definition.revision = last + 1;
            let record = match encode(&definition) {
                Ok(record) => record,
                Err(error) => return Ok(Err(error)),
            };
            table.insert((family.as_str(), definition.revision), record.as_slice())?;
            Ok(Ok(definition))
        })?
    }

    /// Stores a definition under its own revision.
    pub fn put_definition(&self, definition: &TaskDefinition) -> Result<()> {
        let record = encode(definition)?;
        self.write(|transaction| {
            let mut table = transaction.open_table(DEFINITIONS)?;
            table.insert(
                (definition.family.as_str(), definition.revision),
                record.as_slice(),
            )?;
            Ok(())
        })
    }

    /// All revisions of a family, oldest first.
    pub fn definitions_of(&self, family: &str) -> Result<Vec<TaskDefinition>> {
        let records = self.read(|transaction| {
            let table = transaction.open_table(DEFINITIONS)?;
            let range = table.range((family, 0)..=(family, u32::MAX))?;
            range
                .map(|entry| Ok(entry?.1.value().to_vec()))
                .collect::<Result<Vec<_>, redb::Error>>()
        })?;
        records.iter().map(|record| decode(record)).collect()
    }

    /// All definitions, by family and revision.
    pub fn definitions(&self) -> Result<Vec<TaskDefinition>> {
        let records = self.read(|transaction| {
            let table = transaction.open_table(DEFINITIONS)?;
            table
                .iter()?
                .map(|entry| Ok(entry?.1.value().to_vec()))
                .collect::<Result<Vec<_>, redb::Error>>()
        })?;
        records.iter().map(|record| decode(record)).collect()
    }

    /// The names of the clusters. `default` is always among them.
    pub fn clusters(&self) -> Result<Vec<String>> {
        self.read(|transaction| {
            let table = transaction.open_table(CLUSTERS)?;
            table
                .iter()?
                .map(|entry| Ok(entry?.0.value().to_owned()))
                .collect()
        })
    }

    /// Adds a cluster; one that exists stays as it is.
    pub fn add_cluster(&self, name: &str) -> Result<()> {
        self.write(|transaction| {
            transaction.open_table(CLUSTERS)?.insert(name, ())?;
            Ok(())
        })
    }

    /// Stores a task's record.
    pub fn put_task(&self, task: &Task) -> Result<()> {
        let record = encode(task)?;
        self.write(|transaction| {
            transaction
                .open_table(TASKS)?
                .insert(task.id.as_str(), record.as_slice())?;
            Ok(())
        })
    }

    /// All tasks, the stopped ones included.
    pub fn tasks(&self) -> Result<Vec<Task>> {
        let records = self.read(|transaction| {
            let table = transaction.open_table(TASKS)?;
            table
                .iter()?
                .map(|entry| Ok(entry?.1.value().to_vec()))
                .collect::<Result<Vec<_>, redb::Error>>()
        })?;
        records.iter().map(|record| decode(record)).collect()
    }

    /// Forgets a task.
    pub fn remove_task(&self, id: &str) -> Result<()> {
        self.write(|transaction| {
            transaction.open_table(TASKS)?.remove(id)?;
            Ok(())
        })
    }

    /// Something that is made once and then stays, such as the id of this container instance.
    pub fn identity(&self, name: &str, make: impl FnOnce() -> String) -> Result<String> {
        let known = self.read(|transaction| {
            let table = transaction.open_table(IDENTITY)?;
            Ok(table.get(name)?.map(|value| value.value().to_owned()))
        })?;
        if let Some(value) = known {
            return Ok(value);
        }
        let value = make();
        self.write(|transaction| {
            transaction
                .open_table(IDENTITY)?
                .insert(name, value.as_str())?;
            Ok(())
        })?;
        Ok(value)
    }
}

fn encode(record: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(record)?)
}

fn decode<T: DeserializeOwned>(record: &[u8]) -> Result<T> {
    Ok(serde_json::from_slice(record)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn definitions_that_are_registered_at_once_have_a_revision_each() {
        let folder = std::env::temp_dir().join(format!("berth-store-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let store = Store::open(&folder.join("state")).unwrap();
        let definition = TaskDefinition::from_request(json!({
            "family": "f", "networkMode": "awsvpc", "memory": "64",
            "containerDefinitions": [{"name": "c", "image": "i"}]
        }));
        let definition = definition.unwrap();
        let revisions: BTreeSet<u32> = std::thread::scope(|scope| {
            let add = || store.add_definition(definition.clone()).unwrap().revision;
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(add)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(revisions, (1..=8).collect());
        assert_eq!(store.definitions_of("f").unwrap().len(), 8);
        drop(store);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
