//! When an offer holds, and what ends it: with a receiver that the test plays.

use std::sync::Arc;
use std::time::Duration;

use backfill::storage::{
    ClaimRef, ClaimToken, ClaimedJob, Handoff, Offer, Outcome, Registration, Settlement, Wakeup, WorkerId,
};
use backfill::{BackfillClient, Job, JobSpec};
use futures::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::UNHEARD;
use crate::support::{client, soon, sql};

/// A receiver without a worker: a registered worker whose offers the test makes.
struct HandoffReceiver {
    client: BackfillClient,
    worker: Arc<WorkerId>,
    offers: watch::Sender<Option<Offer>>,
    wakeups: mpsc::UnboundedReceiver<Wakeup>,
    listening: JoinHandle<()>,
}

impl HandoffReceiver {
    async fn of(client: &BackfillClient) -> Self {
        let worker = Arc::new(WorkerId::random());
        let storage = client.storage().consumer();
        assert!(storage.register(&Registration::new(&worker, &["t".to_owned()])).await.expect("register"));
        let offer = Offer::new(Arc::clone(&worker), ["t".to_owned()].into(), 1);
        let offers = watch::Sender::new(Some(offer));
        let mut heard = storage.wakeups(Some(offers.subscribe()));
        let (tell, mut wakeups) = mpsc::unbounded_channel();
        let listening = tokio::spawn(async move {
            while let Some(wakeup) = heard.next().await {
                let _ = tell.send(wakeup);
            }
        });
        assert_eq!(soon("listening", wakeups.recv()).await, Some(Wakeup::Listening));
        Self { client: client.clone(), worker, offers, wakeups, listening }
    }

    async fn add(&self) -> Job {
        self.client.add(JobSpec::new("t", ())).await.expect("add")
    }

    /// Adds until a job is handed off, and hears of it; the others are done away with.
    async fn handed_off(&mut self) -> Handoff {
        soon("a job is handed off", async {
            loop {
                let added = self.add().await;
                if added.locked_by.is_none() {
                    self.client.complete(&[added.id]).await.expect("complete");
                    continue;
                }
                loop {
                    // There may be earlier ones, of which nobody wanted to hear.
                    if let Some(Wakeup::HandedOff(handoff)) = self.wakeups.recv().await
                        && handoff.job.id == added.id
                    {
                        assert_eq!(handoff.worker, self.worker);
                        return *handoff;
                    }
                }
            }
        })
        .await
    }

    async fn take_one(&mut self) {
        let handed_off = self.handed_off().await;
        self.done(&handed_off.job).await;
    }

    async fn done(&self, job: &ClaimedJob) {
        let settlement = Settlement::new(ClaimRef::of(job), Outcome::completed());
        let written = self.client.storage().consumer().settle(&self.worker, &[settlement]).await.expect("settle");
        assert_eq!(written.applied, [job.id]);
    }

    /// Adds until nothing is handed off any more. (A job that it kept would keep the next one from it, too.)
    async fn until_its_offer_ends(&self) {
        soon("its offer ends", async {
            loop {
                let added = self.add().await;
                if added.locked_by.is_none() {
                    return;
                }
                // Its claim is the moment at which it was stored.
                let token = ClaimToken::from_number(added.created_at.timestamp_micros());
                self.done(&ClaimedJob::new(added, token)).await;
            }
        })
        .await;
    }

    async fn receives_nothing(&self, when: &str) {
        for rest in [15, 30, 60] {
            assert_eq!(self.add().await.locked_by, None, "{when}");
            // Longer than one that did not take a job is left alone, so that it is asked again.
            tokio::time::sleep(Duration::from_millis(rest)).await;
        }
    }
}

#[tokio::test]
async fn a_client_hands_one_job_at_a_time_to_each_worker_for_it_may_be_dead() {
    let (client, _, _) = client().await;
    let mut receiver = HandoffReceiver::of(&client).await;
    let handed_off = receiver.handed_off().await;
    receiver.receives_nothing("while it holds the last one").await;
    receiver.done(&handed_off.job).await;
    receiver.take_one().await;
}

#[tokio::test]
async fn nobody_waits_for_who_looks_after_the_takers_row() {
    let (client, pool, schema) = client().await;
    let mut receiver = HandoffReceiver::of(&client).await;
    receiver.take_one().await;
    let mut rescuer = pool.begin().await.expect("begin");
    let lock = format!("select from \"{schema}\".backfill_pools for update");
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut *rescuer).await.expect("lock");
    soon("adding", receiver.receives_nothing("while its row is locked")).await;
    rescuer.rollback().await.expect("rollback");
    receiver.take_one().await;
}

#[tokio::test]
async fn an_offer_ends_when_it_is_taken_back_and_when_its_worker_is_declared_dead() {
    let (client, pool, schema) = client().await;
    let mut receiver = HandoffReceiver::of(&client).await;
    receiver.take_one().await;
    let offer = receiver.offers.send_replace(None).expect("it offered");
    receiver.until_its_offer_ends().await;
    receiver.receives_nothing("after the end of the offer").await;
    receiver.offers.send_replace(Some(Offer::new(offer.worker, offer.tasks, 2)));
    receiver.take_one().await;
    sql(&pool, &schema, "update S.backfill_pools set seen_at = 'epoch'").await;
    receiver.receives_nothing("of a worker that was declared dead").await;
    sql(&pool, &schema, "update S.backfill_pools set seen_at = now()").await;
    receiver.take_one().await;
}

#[tokio::test]
async fn to_release_what_is_unknown_ends_an_offer_and_another_one_begins_anew() {
    let (client, pool, schema) = client().await;
    let mut receiver = HandoffReceiver::of(&client).await;
    receiver.take_one().await;
    sql(&pool, &schema, UNHEARD).await;
    assert_eq!(client.storage().consumer().release_untracked(&receiver.worker, &[]).await.expect("release"), 1);
    receiver.receives_nothing("after releasing what is unknown").await;
    let offer = receiver.offers.send_replace(None).expect("it offered");
    receiver.offers.send_replace(Some(Offer::new(offer.worker, offer.tasks, 2)));
    receiver.take_one().await;
}

#[tokio::test]
async fn an_offer_ends_with_its_session() {
    let (client, _, _) = client().await;
    let mut receiver = HandoffReceiver::of(&client).await;
    receiver.take_one().await;
    receiver.listening.abort();
    receiver.until_its_offer_ends().await;
    receiver.receives_nothing("after the end of its session").await;
}
