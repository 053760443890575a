//! One test on several storages.

/// Makes a test of each function for each storage in the list: `memory`, `sqlite` (with the feature `sqlite`) and `postgres(url)` (with the
/// feature `postgres`), where the URL is any expression, such as one that reads an environment variable.
///
/// The tests are called `function::on_memory`, `function::on_sqlite` and `function::on_postgres`. They need the crate `tokio` with its
/// feature `macros`. Attributes before a storage are put on its tests, and those before a function on all its tests.
///
/// ```
/// use backfill::JobSpec;
/// use backfill::testing::{TestQueue, job_named, on_each_storage};
///
/// on_each_storage! {
///     [memory, sqlite, #[ignore = "needs a server"] postgres(std::env::var("DATABASE_URL").expect("a URL"))]
///
///     async fn an_order_adds_a_job(queue: TestQueue) {
///         queue.client().add(JobSpec::new("send_invoice", 17)).await.expect("added");
///         queue.jobs().await.one(job_named("send_invoice"));
///     }
/// }
/// # fn main() {}
/// ```
#[macro_export]
#[doc(hidden)]
macro_rules! __on_each_storage {
    ($storages:tt $($(#[$attribute:meta])* async fn $name:ident($queue:ident: $type:ty) $(-> $output:ty)? $body:block)+) => {
        $(
            mod $name {
                use super::*;

                async fn test($queue: $type) $(-> $output)? $body

                $crate::__on_storages! { { $(#[$attribute])* } { $(-> $output)? } $storages }
            }
        )+
    };
}

/// The tests of one function: the attributes, the output, and the list.
#[macro_export]
#[doc(hidden)]
macro_rules! __on_storages {
    ($attributes:tt $output:tt [$(,)?]) => {};
    ($attributes:tt $output:tt [$(#[$own:meta])* memory $(, $($rest:tt)*)?]) => {
        $crate::__on_storage! { $attributes $output { $(#[$own])* } on_memory { $crate::testing::TestQueue::memory() } }
        $crate::__on_storages! { $attributes $output [$($($rest)*)?] }
    };
    ($attributes:tt $output:tt [$(#[$own:meta])* sqlite $(, $($rest:tt)*)?]) => {
        $crate::__on_storage! {
            $attributes $output { $(#[$own])* } on_sqlite { $crate::testing::TestQueue::sqlite().await }
        }
        $crate::__on_storages! { $attributes $output [$($($rest)*)?] }
    };
    ($attributes:tt $output:tt [$(#[$own:meta])* postgres($url:expr) $(, $($rest:tt)*)?]) => {
        $crate::__on_storage! {
            $attributes $output { $(#[$own])* } on_postgres { $crate::testing::TestQueue::postgres_at($url).await }
        }
        $crate::__on_storages! { $attributes $output [$($($rest)*)?] }
    };
}

/// The test of one function on one storage.
#[macro_export]
#[doc(hidden)]
macro_rules! __on_storage {
    ({ $($attributes:tt)* } { $($output:tt)* } { $($own:tt)* } $name:ident { $queue:expr }) => {
        $($attributes)*
        $($own)*
        #[::tokio::test]
        async fn $name() $($output)* {
            test($queue).await
        }
    };
}
