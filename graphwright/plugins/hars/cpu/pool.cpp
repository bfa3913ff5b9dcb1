#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

namespace hars {
namespace {

constexpr int32_t kMostThreads = 256;

// One call of run_on_pool; lives on its caller's stack, so the caller waits until no helper holds it.
struct Job {
  Job(hars_task task_, void *data_, int64_t count_, int32_t wanted_)
      : task(task_), data(data_), count(count_), wanted(wanted_) {}

  hars_task task;
  void *data;
  int64_t count;
  int32_t wanted;  // helpers
  int32_t helpers = 0;
  std::atomic<int64_t> next{0};
  std::condition_variable left;
  Job *following = nullptr;

  void work() {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(data, i);
  }
  bool needs_help() const { return helpers < wanted && next.load(std::memory_order_relaxed) < count; }
};

class Pool {
 public:
  explicit Pool(pid_t process) : process_(process) {}

  pid_t process() const { return process_; }

  void run(Job &job) {
    {
      std::lock_guard<std::mutex> hold(mutex_);
      job.following = jobs_;
      jobs_ = &job;
      start_threads(job.wanted);
    }
    for (int32_t i = 0; i < job.wanted; ++i) work_came_.notify_one();
    job.work();
    std::unique_lock<std::mutex> hold(mutex_);
    remove(job);
    job.left.wait(hold, [&] { return job.helpers == 0; });
  }

 private:
  void start_threads(int32_t wanted) {
    // Signals are for the program's own threads.
    sigset_t all, before;
    sigfillset(&all);
    if (threads_ < wanted) pthread_sigmask(SIG_SETMASK, &all, &before);
    else return;
    try {
      for (; threads_ < wanted; ++threads_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error &) {
      // No more threads to be had: those there are, and the caller, do the work.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void serve() {
    std::unique_lock<std::mutex> hold(mutex_);
    for (;;) {
      Job *job = find_job();
      if (!job) {
        work_came_.wait(hold);
        continue;
      }
      ++job->helpers;
      hold.unlock();
      job->work();
      hold.lock();
      if (--job->helpers == 0) job->left.notify_one();
    }
  }

  Job *find_job() const {
    Job *job = jobs_;
    while (job && !job->needs_help()) job = job->following;
    return job;
  }

  void remove(Job &job) {
    Job **link = &jobs_;
    while (*link != &job) link = &(*link)->following;
    *link = job.following;
  }

  const pid_t process_;
  std::mutex mutex_;
  std::condition_variable work_came_;
  Job *jobs_ = nullptr;
  int32_t threads_ = 0;
};

std::atomic<Pool *> current{nullptr};

// A pool is never destroyed: its threads wait in it until the process ends, and need no farewell. After a fork() the
// child has neither the threads nor a mutex to be trusted, so it starts with a new one.
Pool *pool_of_this_process() {
  Pool *pool = current.load(std::memory_order_acquire);
  const pid_t process = getpid();
  while (!pool || pool->process() != process) {
    Pool *fresh = new (std::nothrow) Pool(process);
    if (!fresh) return nullptr;
    if (current.compare_exchange_strong(pool, fresh, std::memory_order_acq_rel)) return fresh;
    delete fresh;
  }
  return pool;
}

}  // namespace

void run_on_pool(int32_t threads, hars_task task, void *data, int64_t count) {
  threads = threads < kMostThreads ? threads : kMostThreads;
  const int64_t helpers = (count < threads ? count : threads) - 1;
  Pool *pool = helpers > 0 ? pool_of_this_process() : nullptr;
  if (!pool) {
    for (int64_t i = 0; i < count; ++i) task(data, i);
    return;
  }
  Job job(task, data, count, int32_t(helpers));
  pool->run(job);
}

}  // namespace hars
