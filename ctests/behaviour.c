/* SPDX-License-Identifier: LGPL-2.1-or-later
 * behaviour CASES: runs every line of tests/behaviour/cases, which says what the words mean. */
#include "bed.h"
#include "check.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MANY = 8, PATIENCE_MS = 60000 };

/* Words and what they stand for, up to NULL. */
struct word {
    const char *name;
    int64_t value;
};

static const struct word methods[] = {{"auto", LIVEDISK_METHOD_AUTO},     {"backup", LIVEDISK_METHOD_BACKUP},
                                      {"mirror", LIVEDISK_METHOD_MIRROR}, {"rebase", LIVEDISK_METHOD_REBASE},
                                      {"clone", LIVEDISK_METHOD_CLONE},   {NULL, 0}};
static const struct word quiesces[] = {{"prefer", LIVEDISK_QUIESCE_PREFER},
                                       {"require", LIVEDISK_QUIESCE_REQUIRE},
                                       {"none", LIVEDISK_QUIESCE_NONE},
                                       {NULL, 0}};
static const struct word clones[] = {{"auto", LIVEDISK_CLONE_AUTO},
                                     {"copy", LIVEDISK_CLONE_COPY},
                                     {"callback", LIVEDISK_CLONE_CALLBACK},
                                     {NULL, 0}};
static const struct word consistencies[] = {
    {"crash", LIVEDISK_CONSISTENCY_CRASH}, {"filesystem", LIVEDISK_CONSISTENCY_FILESYSTEM}, {NULL, 0}};
static const struct word disk_flags[] = {{"reuse_existing", LIVEDISK_DISK_REUSE_EXISTING}, {NULL, 0}};
static const struct word snapshot_flags[] = {{"shallow", LIVEDISK_SNAPSHOT_SHALLOW},
                                             {"auto_finish", LIVEDISK_SNAPSHOT_AUTO_FINISH},
                                             {"dry_run", LIVEDISK_SNAPSHOT_DRY_RUN},
                                             {"verify", LIVEDISK_SNAPSHOT_VERIFY},
                                             {"write_blocking", LIVEDISK_SNAPSHOT_WRITE_BLOCKING},
                                             {"full_if_needed", LIVEDISK_SNAPSHOT_FULL_IF_NEEDED},
                                             {NULL, 0}};
static const struct word migrate_flags[] = {{"auto_finish", LIVEDISK_MIGRATE_AUTO_FINISH},
                                            {"dry_run", LIVEDISK_MIGRATE_DRY_RUN},
                                            {"verify", LIVEDISK_MIGRATE_VERIFY},
                                            {"delete_source", LIVEDISK_MIGRATE_DELETE_SOURCE},
                                            {NULL, 0}};
static const struct word codes[] = {{"INVALID_ARGUMENT", LIVEDISK_ERR_INVALID_ARGUMENT},
                                    {"NO_CONNECTION", LIVEDISK_ERR_NO_CONNECTION},
                                    {"NO_DOMAIN", LIVEDISK_ERR_NO_DOMAIN},
                                    {"NO_DISK", LIVEDISK_ERR_NO_DISK},
                                    {"BUSY", LIVEDISK_ERR_BUSY},
                                    {"UNSUPPORTED", LIVEDISK_ERR_UNSUPPORTED},
                                    {"AGENT", LIVEDISK_ERR_AGENT},
                                    {"DESTINATION", LIVEDISK_ERR_DESTINATION},
                                    {"JOB_FAILED", LIVEDISK_ERR_JOB_FAILED},
                                    {"CANCELLED", LIVEDISK_ERR_CANCELLED},
                                    {"TIMEOUT", LIVEDISK_ERR_TIMEOUT},
                                    {"NO_OPERATION", LIVEDISK_ERR_NO_OPERATION},
                                    {"NO_CHECKPOINT", LIVEDISK_ERR_NO_CHECKPOINT},
                                    {NULL, 0}};
enum call { NOTHING, SNAPSHOT, MIGRATE, ATTACH, RECOVER, OPEN };
static const struct word calls[] = {{"snapshot", SNAPSHOT}, {"migrate", MIGRATE}, {"attach", ATTACH},
                                    {"recover", RECOVER},   {"open", OPEN},       {NULL, 0}};
enum end { FINISH, POLL, TIMEOUT, CANCEL, LATE };
static const struct word ends[] = {{"poll", POLL}, {"timeout", TIMEOUT}, {"cancel", CANCEL}, {"late", LATE}, {NULL, 0}};

struct run {
    const char *name, *uri;
    /* A backup that is taken before: its checkpoint and its image. */
    const char *before;
    char *before_image;
    bool busy, has_copied;
    /* What is begun and dropped before the call. */
    enum call dropped, call;
    int guest;
    enum end end;
    struct livedisk_snapshot_disk disks[MANY];
    struct livedisk_snapshot_options snapshot;
    struct livedisk_migrate_options migrate;
    /* What came of it. */
    int32_t code;
    struct livedisk_report report;
    struct livedisk_recovery recovery;
};

static int64_t meaning(const struct word *words, const char *name)
{
    for (; words->name != NULL; words++) {
        if (strcmp(words->name, name) == 0)
            return words->value;
    }
    CHECK_FATAL("unknown word: %s", name);
}

/* Splits at the first `mark`; NULL where there is none. */
static char *rest(char *text, char mark)
{
    char *found = text == NULL ? NULL : strchr(text, mark);
    if (found != NULL)
        *found++ = '\0';
    return found;
}

static uint32_t flags(const struct word *words, char *names)
{
    uint32_t all = 0;
    for (char *next; names != NULL; names = next) {
        next = rest(names, ',');
        all |= (uint32_t)meaning(words, names);
    }
    return all;
}

static char *in_bed(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/behaviour-%ld-%s", bed_env("DIR"), (long)getpid(), name);
    char *copy = strdup(strcmp(name, "REL") == 0 ? "relative" : path);
    CHECK(copy != NULL);
    return copy;
}

static void make(const char *kind, const char *name)
{
    char *path = in_bed(name);
    if (strcmp(kind, "directory") == 0) {
        CHECK(mkdir(path, 0700) == 0);
    } else if (strcmp(kind, "link") == 0) {
        CHECK(symlink("/no/such/file", path) == 0);
    } else {
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
        CHECK(fd >= 0);
        if (strcmp(kind, "raw32M") == 0)
            CHECK(ftruncate(fd, 32 << 20) == 0);
        else if (strcmp(kind, "text") == 0)
            CHECK(write(fd, "dear\n", 5) == 5);
        else
            CHECK_FATAL("unknown word: %s", kind);
        close(fd);
    }
    free(path);
}

static int32_t copy(const char *source, const char *destination, void *data)
{
    char command[8192];
    snprintf(command, sizeof command, "cp --sparse=always -- '%s' '%s'", source, destination);
    ((struct run *)data)->has_copied = true;
    return system(command);
}

static int32_t fail(const char *source, const char *destination, void *data)
{
    (void)source, (void)destination, (void)data;
    return 7;
}

static void option(struct run *run, char *word)
{
    char *value = rest(word, '=');
    if (strcmp(word, "uri") == 0) {
        run->uri = value;
    } else if (strcmp(word, "disk") == 0) {
        char *destination = rest(value, ':'), *format = rest(destination, ':'), *flag = rest(format, ':');
        run->disks[run->snapshot.disk_count++] = (struct livedisk_snapshot_disk){
            .target = value,
            .destination = destination == NULL ? NULL : in_bed(destination),
            .format = format,
            .flags = flags(disk_flags, flag)};
        run->migrate.target = value;
        run->migrate.destination = run->disks[0].destination;
        run->migrate.format = format;
    } else if (strcmp(word, "method") == 0) {
        run->snapshot.method = run->migrate.method = (int32_t)meaning(methods, value);
    } else if (strcmp(word, "quiesce") == 0) {
        run->snapshot.quiesce = (int32_t)meaning(quiesces, value);
    } else if (strcmp(word, "clone") == 0) {
        run->snapshot.clone = run->migrate.clone = (int32_t)meaning(clones, value);
    } else if (strcmp(word, "bandwidth") == 0) {
        run->snapshot.bandwidth = run->migrate.bandwidth = strtoull(value, NULL, 10);
    } else if (strcmp(word, "checkpoint") == 0) {
        run->snapshot.checkpoint = value;
    } else if (strcmp(word, "since") == 0) {
        run->snapshot.since = value;
    } else if (strcmp(word, "backing") == 0) {
        run->disks[0].backing = in_bed(value);
    } else if (strcmp(word, "before") == 0) {
        run->before = value;
        run->before_image = in_bed(rest(value, ':'));
    } else if (strcmp(word, "freeze_limit_ms") == 0) {
        run->snapshot.freeze_limit_ms = (uint32_t)strtoul(value, NULL, 10);
    } else if (strcmp(word, "flags") == 0) {
        if (run->call == MIGRATE || run->dropped == MIGRATE)
            run->migrate.flags = flags(migrate_flags, value);
        else
            run->snapshot.flags = flags(snapshot_flags, value);
    } else if (strcmp(word, "callback") == 0) {
        CHECK(strcmp(value, "copy") == 0 || strcmp(value, "fail") == 0);
        run->snapshot.clone_callback = run->migrate.clone_callback = strcmp(value, "copy") == 0 ? copy : fail;
        run->snapshot.clone_data = run->migrate.clone_data = run;
    } else if (strcmp(word, "make") == 0) {
        char *name = rest(value, ':');
        make(value, name);
    } else if (strcmp(word, "busy") == 0) {
        run->busy = true;
    } else if (strcmp(word, "end") == 0) {
        run->end = (enum end)meaning(ends, value);
    } else {
        CHECK_FATAL("unknown word: %s", word);
    }
}

/* Whether the call succeeded; keeps the code that it failed with. */
static bool went_well(struct run *run, int32_t code, struct livedisk_error **error)
{
    CHECK_EQ(code, livedisk_error_code(*error));
    if (code != LIVEDISK_OK)
        printf("  %s\n", livedisk_error_message(*error));
    livedisk_error_free(*error);
    *error = NULL;
    run->code = code;
    return code == LIVEDISK_OK;
}

static void end(struct run *run, struct livedisk_operation *operation)
{
    struct livedisk_error *error = NULL;
    struct livedisk_report again;
    if (run->end == TIMEOUT) {
        int32_t code = livedisk_finish(operation, 0, &run->report, sizeof run->report, &error);
        went_well(run, code, &error);
        CHECK_OK(error, livedisk_cancel(operation, &error));
        return;
    }
    if (run->end == POLL)
        bed_await(operation, LIVEDISK_PHASE_DONE);
    if (run->end == CANCEL) {
        bed_await(operation, LIVEDISK_PHASE_READY);
        CHECK_OK(error, livedisk_cancel(operation, &error));
        bed_await(operation, LIVEDISK_PHASE_CANCELLED);
    }
    int32_t code = livedisk_finish(operation, PATIENCE_MS, &run->report, sizeof run->report, &error);
    if (!went_well(run, code, &error))
        return;
    CHECK_OK(error, livedisk_finish(operation, 0, &again, sizeof again, &error));
    CHECK(memcmp(&again, &run->report, sizeof again) == 0);
    if (run->end == LATE) {
        code = livedisk_cancel(operation, &error);
        went_well(run, code, &error);
    }
}

static int32_t start(struct run *run, enum call call, const char *domain, struct livedisk_connection *connection,
                     struct livedisk_operation **operation, struct livedisk_error **error)
{
    if (call == SNAPSHOT)
        return livedisk_start_live_snapshot(connection, domain, &run->snapshot, sizeof run->snapshot, operation, error);
    if (call == MIGRATE)
        return livedisk_migrate_disk(connection, domain, &run->migrate, sizeof run->migrate, operation, error);
    CHECK_EQ(call, ATTACH);
    return livedisk_attach(connection, domain, run->migrate.target, operation, error);
}

static const struct livedisk_recovery nothing;

static void recover(struct run *run, const char *domain, struct livedisk_connection *connection)
{
    struct livedisk_recovery again;
    struct livedisk_error *error = NULL;
    int32_t code = livedisk_recover(connection, domain, &run->recovery, sizeof run->recovery, &error);
    if (!went_well(run, code, &error))
        return;
    CHECK_OK(error, livedisk_recover(connection, domain, &again, sizeof again, &error));
    CHECK(memcmp(&again, &nothing, sizeof again) == 0);
}

static void call(struct run *run, struct livedisk_connection *connection)
{
    struct livedisk_operation *operation = NULL, *other = NULL;
    struct livedisk_connection *nobody = NULL;
    struct livedisk_error *error = NULL;
    if (run->call == OPEN) {
        int32_t code = livedisk_open(run->uri, 0, &nobody, &error);
        went_well(run, code, &error);
        livedisk_close(nobody);
        return;
    }
    const char *domain = run->guest == 0 ? "no-such-domain" : bed_domain(run->guest);
    char *elsewhere = in_bed("busy");
    if (run->busy) {
        other = bed_start(connection, run->guest, elsewhere, 1 << 20);
        bed_await(other, LIVEDISK_PHASE_COPYING);
    }
    run->snapshot.disks = run->disks;
    if (run->before != NULL) {
        struct livedisk_snapshot_disk disk = {.target = run->disks[0].target, .destination = run->before_image};
        struct livedisk_snapshot_options first = {.disks = &disk, .disk_count = 1, .checkpoint = run->before};
        CHECK_OK(error, livedisk_start_live_snapshot(connection, domain, &first, sizeof first, &operation, &error));
        CHECK_OK(error, livedisk_finish(operation, PATIENCE_MS, &run->report, sizeof run->report, &error));
        livedisk_operation_free(operation);
        operation = NULL;
    }
    if (run->dropped != NOTHING) {
        CHECK_OK(error, start(run, run->dropped, domain, connection, &operation, &error));
        bed_await(operation, LIVEDISK_PHASE_COPYING);
        livedisk_operation_free(operation);
        operation = NULL;
    }
    if (run->call == RECOVER) {
        recover(run, domain, connection);
    } else {
        int32_t code = start(run, run->call, domain, connection, &operation, &error);
        if (went_well(run, code, &error))
            end(run, operation);
        livedisk_operation_free(operation);
        if (run->dropped != NOTHING && run->call != ATTACH) {
            recover(run, domain, connection);
            CHECK_EQ(run->recovery.taken_back, 1);
            run->code = code;
        }
    }
    if (other != NULL)
        CHECK_OK(error, livedisk_cancel(other, &error));
    livedisk_operation_free(other);
    CHECK(!bed_exists(elsewhere));
    free(elsewhere);
}

static uint32_t *count_of(struct run *run, const char *name)
{
    struct livedisk_recovery *found = &run->recovery;
    const struct {
        const char *name;
        uint32_t *count;
    } counts[] = {{"domains", &found->domains},       {"thawed", &found->thawed}, {"completed", &found->completed},
                  {"taken_back", &found->taken_back}, {"failed", &found->failed}};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        if (run->call == RECOVER && strcmp(counts[i].name, name) == 0)
            return counts[i].count;
    }
    return NULL;
}

static void expect(struct run *run, struct livedisk_connection *connection, char *word)
{
    char *value = rest(word, '=');
    uint32_t *count = count_of(run, word);
    if (count != NULL) {
        CHECK_EQ(*count, strtol(value, NULL, 10));
        *count = 0;
    } else if (strcmp(word, "method") == 0) {
        CHECK_EQ(run->report.method, meaning(methods, value));
    } else if (strcmp(word, "consistency") == 0) {
        CHECK_EQ(run->report.consistency, meaning(consistencies, value));
    } else if (strcmp(word, "disks") == 0) {
        CHECK_EQ(run->report.disk_count, strtol(value, NULL, 10));
    } else if (strcmp(word, "full") == 0) {
        CHECK_EQ(run->report.full_disks, strtol(value, NULL, 10));
    } else if (strcmp(word, "forget") == 0) {
        struct livedisk_error *error = NULL;
        CHECK_OK(error, livedisk_delete_checkpoint(connection, bed_domain(run->guest), value, &error));
    } else if (strcmp(word, "frozen") == 0) {
        CHECK(strcmp(value, "yes") == 0 || strcmp(value, "no") == 0);
        CHECK_EQ(run->report.freeze_ns > 0, strcmp(value, "yes") == 0);
        CHECK_EQ(run->report.filesystems_frozen > 0, strcmp(value, "yes") == 0);
    } else if (strcmp(word, "image") == 0) {
        char *format = rest(value, ':'), *path = in_bed(value);
        bed_check_image(path, format, run->report.consistency, 1);
        CHECK(unlink(path) == 0);
        free(path);
    } else if (strcmp(word, "there") == 0 || strcmp(word, "gone") == 0) {
        char *path = in_bed(value);
        if (bed_exists(path) != (strcmp(word, "there") == 0))
            CHECK_FATAL("expected: %s is %s", path, word);
        free(path);
    } else {
        CHECK_FATAL("unknown word: %s", word);
    }
}

static const char *next_word(void)
{
    const char *word = strtok(NULL, " ");
    CHECK(word != NULL);
    return word;
}

static void run_line(struct livedisk_connection *connection, char *line)
{
    struct run run = {.name = strtok(line, " ")};
    printf("%s\n", run.name);
    char *first = (char *)next_word(), *second = rest(first, '+');
    run.dropped = second == NULL ? NOTHING : (enum call)meaning(calls, first);
    run.call = (enum call)meaning(calls, second == NULL ? first : second);
    const char *name = next_word();
    run.guest = strcmp(name, "none") == 0 ? 0 : atoi(name);
    char *words[2 * MANY];
    size_t count = 0;
    while (strcmp(name = next_word(), "->") != 0) {
        CHECK(count < 2 * MANY);
        words[count++] = (char *)name;
    }
    name = next_word();
    CHECK(strcmp(name, "ok") == 0 || strcmp(name, "fails") == 0);
    int32_t expected = strcmp(name, "ok") == 0 ? LIVEDISK_OK : (int32_t)meaning(codes, next_word());
    char *expectations = strtok(NULL, "");

    for (size_t i = 0; i < count; i++)
        option(&run, words[i]);
    call(&run, connection);
    CHECK_EQ(run.code, expected);
    if (run.migrate.clone_callback == copy)
        CHECK(run.has_copied);
    for (char *word = expectations == NULL ? NULL : strtok(expectations, " "); word != NULL; word = strtok(NULL, " "))
        expect(&run, connection, word);
    /* What was expected is zero now. */
    CHECK(run.call != RECOVER || memcmp(&run.recovery, &nothing, sizeof nothing) == 0);
    for (size_t i = 0; i < run.snapshot.disk_count; i++)
        free((char *)run.disks[i].destination), free((char *)run.disks[i].backing);
    free(run.before_image);
    if (run.guest != 0)
        bed_check_clean(run.guest);
}

int main(int argument_count, char **arguments)
{
    CHECK_EQ(argument_count, 2);
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct livedisk_connection *connection = bed_open(LIVEDISK_OPEN_RUN_EVENT_LOOP);
    FILE *cases = fopen(arguments[1], "r");
    CHECK(cases != NULL);
    char line[1024];
    int count = 0;
    while (fgets(line, sizeof line, cases) != NULL) {
        CHECK(strchr(line, '\n') != NULL);
        line[strcspn(line, "\n")] = '\0';
        if (line[0] == '\0' || line[0] == '#')
            continue;
        run_line(connection, line);
        count++;
    }
    fclose(cases);
    livedisk_close(connection);
    CHECK(count > 0);
    return 0;
}
