/* Posting to a server: see rest.h. */
#include "aggregator/destination/rest.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <zlib.h>

#include "shm/fault.h"

enum {
    ANSWER_BYTES = 160,        /* of an answer's body are kept, to show why a server refused */
    RETRY_AFTER_MAX_S = 600,   /* longer waits that a server asks for are cut to this */
    TOKEN_BYTES = 4096,        /* the longest token */
    GZIP_FROM_BYTES = 512,     /* less is not worth it */
    SLOWEST_BYTES_PER_MS = 50, /* what a link must carry: a longer batch gets so much more time */
};

struct rest_sink {
    CURL *easy;
    CURLM *multi;
    struct curl_slist *headers;
    const struct destination_spec *spec;
    void *owner;
    long timeout_ms;
    bool running;
    bool takes_gzip; /* the server has said so */
    char *packed;    /* the body, where it is compressed */
    size_t answer_bytes;
    char answer[ANSWER_BYTES + 1];
    char words[CURL_ERROR_SIZE];
};

int rest_check_url(const char *url)
{
    CURLU *parsed = curl_url();
    char *scheme = NULL;
    bool good = parsed != NULL && curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
                curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
                (strcasecmp(scheme, "http") == 0 || strcasecmp(scheme, "https") == 0);
    curl_free(scheme);
    curl_url_cleanup(parsed);
    return good ? 0 : fault(EINVAL, "%s is no http:// or https:// URL", url);
}

char *rest_shown_url(const char *url)
{
    CURLU *parsed = curl_url();
    char *shown = NULL, *copy = NULL;
    if (parsed != NULL && curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
        curl_url_set(parsed, CURLUPART_USER, NULL, 0) == CURLUE_OK &&
        curl_url_set(parsed, CURLUPART_PASSWORD, NULL, 0) == CURLUE_OK &&
        curl_url_get(parsed, CURLUPART_URL, &shown, 0) == CURLUE_OK)
        copy = strdup(shown);
    curl_free(shown);
    curl_url_cleanup(parsed);
    return copy;
}

/* An address, not a name that begins like one: anybody may have 127.example.org. */
static bool is_loopback_host(const char *host)
{
    struct in_addr address;
    return strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
           (inet_pton(AF_INET, host, &address) == 1 && ntohl(address.s_addr) >> 24 == 127);
}

/* A proxy named in the environment is for the world outside, never for this machine. */
static bool is_loopback(const char *url)
{
    CURLU *parsed = curl_url();
    char *host = NULL;
    bool loopback = parsed != NULL && curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
                    curl_url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK && is_loopback_host(host);
    curl_free(host);
    curl_url_cleanup(parsed);
    return loopback;
}

bool rest_is_private(const char *url)
{
    return strncasecmp(url, "https:", 6) == 0 || is_loopback(url);
}

/* A server that takes compressed bodies says so in its answers (RFC 9110, 12.5.3). */
static size_t see_header(char *bytes, size_t size, size_t count, void *context)
{
    static const char name[] = "accept-encoding:";
    struct rest_sink *sink = context;
    size_t n = size * count, skip = sizeof name - 1;
    if (n > skip && strncasecmp(bytes, name, skip) == 0)
        sink->takes_gzip = memmem(bytes + skip, n - skip, "gzip", 4) != NULL;
    return n;
}

static size_t keep_answer(char *bytes, size_t size, size_t count, void *context)
{
    struct rest_sink *sink = context;
    size_t n = size * count, room = ANSWER_BYTES - sink->answer_bytes;
    memcpy(sink->answer + sink->answer_bytes, bytes, n < room ? n : room);
    sink->answer_bytes += n < room ? n : room;
    return n;
}

static bool set_options(struct rest_sink *sink)
{
    const struct destination_spec *spec = sink->spec;
    CURL *easy = sink->easy;
    sink->timeout_ms = (long)ceil(fmin(spec->timeout_s > 0 ? spec->timeout_s : 5, 3600) * 1000);
    bool ok = curl_easy_setopt(easy, CURLOPT_URL, spec->url) == CURLE_OK;
#define SET(option, value) ok = ok && curl_easy_setopt(easy, option, value) == CURLE_OK
    SET(CURLOPT_PRIVATE, sink->owner);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_POST, 1L);
    SET(CURLOPT_USERAGENT, "profilomatic");
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_ERRORBUFFER, sink->words);
    SET(CURLOPT_WRITEFUNCTION, keep_answer);
    SET(CURLOPT_WRITEDATA, (void *)sink);
    SET(CURLOPT_HEADERFUNCTION, see_header);
    SET(CURLOPT_HEADERDATA, (void *)sink);
    SET(CURLOPT_CONNECTTIMEOUT_MS, sink->timeout_ms);
    SET(CURLOPT_SSLVERSION, (long)(spec->newest_tls ? CURL_SSLVERSION_TLSv1_3 : CURL_SSLVERSION_TLSv1_2));
    SET(CURLOPT_SSL_VERIFYPEER, spec->verify ? 1L : 0L);
    SET(CURLOPT_SSL_VERIFYHOST, spec->check_hostname ? 2L : 0L);
    if (is_loopback(spec->url))
        SET(CURLOPT_PROXY, "");
    if (spec->ca_pem != NULL) {
        struct curl_blob pem = {
            .data = (void *)(uintptr_t)spec->ca_pem, .len = strlen(spec->ca_pem), .flags = CURL_BLOB_NOCOPY};
        SET(CURLOPT_CAINFO_BLOB, &pem);
        SET(CURLOPT_CAPATH, (char *)NULL); /* these certificates only, not the system's beside them */
    }
    if (spec->certfile != NULL)
        SET(CURLOPT_SSLCERT, spec->certfile);
    if (spec->keyfile != NULL)
        SET(CURLOPT_SSLKEY, spec->keyfile);
#undef SET
    return ok;
}

struct rest_sink *rest_sink_create(CURLM *multi, const struct destination_spec *spec, void *owner)
{
    struct rest_sink *sink = calloc(1, sizeof *sink);
    if (sink == NULL)
        return NULL;
    sink->multi = multi;
    sink->spec = spec;
    sink->owner = owner;
    sink->easy = curl_easy_init();
    if (sink->easy == NULL || !set_options(sink)) {
        rest_sink_destroy(sink);
        return NULL;
    }
    return sink;
}

void *rest_sink_owner(CURL *easy)
{
    char *owner = NULL;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &owner);
    return owner;
}

static bool add_header(struct rest_sink *sink, const char *header)
{
    struct curl_slist *longer = curl_slist_append(sink->headers, header);
    if (longer != NULL)
        sink->headers = longer;
    return longer != NULL;
}

/* "Authorization: …" with what stands in the token's file now; so that it may be renewed at any time. */
static int add_token(struct rest_sink *sink)
{
    const char *path = sink->spec->token_file;
    char header[TOKEN_BYTES + 64], token[TOKEN_BYTES + 1];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : read(fd, token, sizeof token);
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return fault(error, "cannot read the token in %s", path);
    while (n > 0 && isspace((unsigned char)token[n - 1]))
        n--;
    if (n == 0 || n > TOKEN_BYTES)
        return fault(EINVAL, "%s holds no token of 1 to %d bytes", path, TOKEN_BYTES);
    token[n] = '\0';
    for (const char *c = token; c < token + n; c++)
        if (iscntrl((unsigned char)*c))
            return fault(EINVAL, "the token in %s is more than one line", path);
    /* A scheme of its own, or the usual one. */
    snprintf(header, sizeof header, "Authorization: %s%s", strchr(token, ' ') == NULL ? "Bearer " : "",
             token);
    return add_header(sink, header) ? 0 : fault(ENOMEM, "cannot post to %s", sink->spec->url);
}

/* The body as it will be posted. Where it cannot be compressed it goes as it is. */
static const char *pack_body(struct rest_sink *sink, const char *bytes, size_t *length)
{
    bool wanted = sink->spec->gzip == GZIP_ALWAYS || (sink->spec->gzip == GZIP_AUTO && sink->takes_gzip);
    free(sink->packed);
    sink->packed = NULL;
    if (!wanted || *length < GZIP_FROM_BYTES)
        return bytes;
    z_stream stream = {0};
    if (deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, MAX_WBITS + 16 /* gzip */, 8, Z_DEFAULT_STRATEGY) !=
        Z_OK)
        return bytes;
    size_t room = deflateBound(&stream, *length);
    sink->packed = malloc(room);
    stream.next_in = (Bytef *)(uintptr_t)bytes;
    stream.avail_in = (uInt)*length;
    stream.next_out = (Bytef *)sink->packed;
    stream.avail_out = (uInt)room;
    bool good = sink->packed != NULL && deflate(&stream, Z_FINISH) == Z_STREAM_END &&
                add_header(sink, "Content-Encoding: gzip");
    size_t packed = stream.total_out;
    deflateEnd(&stream);
    if (good) {
        *length = packed;
        return sink->packed;
    }
    free(sink->packed);
    sink->packed = NULL;
    return bytes;
}

int rest_sink_post(struct rest_sink *sink, const char *bytes, size_t length, const char *key)
{
    char id[128];
    snprintf(id, sizeof id, "Idempotency-Key: \"%s\"", key);
    curl_slist_free_all(sink->headers);
    sink->headers = NULL;
    sink->answer_bytes = 0;
    sink->words[0] = '\0';
    int rc = sink->spec->token_file != NULL ? add_token(sink) : 0;
    if (rc != 0)
        return rc;
    const char *body = pack_body(sink, bytes, &length);
    /* "Expect:" switches the wait for "100 Continue" off: a second lost with servers that do not know it. */
    if (!add_header(sink, "Content-Type: application/json") || !add_header(sink, "Expect:") ||
        !add_header(sink, id) ||
        curl_easy_setopt(sink->easy, CURLOPT_HTTPHEADER, sink->headers) != CURLE_OK ||
        curl_easy_setopt(sink->easy, CURLOPT_POSTFIELDS, body) != CURLE_OK ||
        curl_easy_setopt(sink->easy, CURLOPT_TIMEOUT_MS,
                         sink->timeout_ms + (long)(length / SLOWEST_BYTES_PER_MS)) != CURLE_OK ||
        curl_easy_setopt(sink->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)length) != CURLE_OK ||
        curl_multi_add_handle(sink->multi, sink->easy) != CURLM_OK)
        return fault(ENOMEM, "cannot post to %s", sink->spec->url);
    sink->running = true;
    return 0;
}

/* The answer's first line, without what could spoil a terminal or a log. */
static void say_answer(struct rest_sink *sink, long status, char *error, size_t error_bytes)
{
    sink->answer[sink->answer_bytes] = '\0';
    sink->answer[strcspn(sink->answer, "\r\n")] = '\0';
    for (char *c = sink->answer; *c != '\0'; c++)
        if (iscntrl((unsigned char)*c) || (unsigned char)*c >= 0x7f)
            *c = '?';
    const char *redirect = status >= 300 && status < 400 ? " (redirects are not followed)" : "";
    snprintf(error, error_bytes, "HTTP %ld%s%s%s", status, redirect, sink->answer[0] != '\0' ? ": " : "",
             sink->answer);
}

enum rest_outcome rest_sink_finish(struct rest_sink *sink, CURLcode result, char *error, size_t error_bytes,
                                   double *retry_after_s, bool *chokes)
{
    curl_multi_remove_handle(sink->multi, sink->easy);
    sink->running = false;
    *retry_after_s = 0;
    *chokes = false;
    if (result != CURLE_OK) {
        snprintf(error, error_bytes, "%s", sink->words[0] != '\0' ? sink->words : curl_easy_strerror(result));
        return REST_RETRY;
    }
    long status = 0;
    curl_easy_getinfo(sink->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 200 && status < 300)
        return REST_DELIVERED;
    say_answer(sink, status, error, error_bytes);
    if (status == 415 && sink->packed != NULL && sink->spec->gzip == GZIP_AUTO) {
        sink->takes_gzip = false;
        return REST_RETRY;
    }
    /* 409: it is still at work on this batch. 401, 403: the token may just be replaced. */
    bool token = sink->spec->token_file != NULL && (status == 401 || status == 403);
    if (status != 408 && status != 409 && status != 425 && status != 429 && status < 500 && !token)
        return REST_REFUSED;
    *chokes = status >= 500 && status != 502 && status != 503 && status != 504;
    curl_off_t after_s = 0;
    if (curl_easy_getinfo(sink->easy, CURLINFO_RETRY_AFTER, &after_s) == CURLE_OK && after_s > 0)
        *retry_after_s = after_s < RETRY_AFTER_MAX_S ? (double)after_s : RETRY_AFTER_MAX_S;
    return REST_RETRY;
}

void rest_sink_destroy(struct rest_sink *sink)
{
    if (sink == NULL)
        return;
    if (sink->running)
        curl_multi_remove_handle(sink->multi, sink->easy);
    curl_easy_cleanup(sink->easy);
    curl_slist_free_all(sink->headers);
    free(sink->packed);
    free(sink);
}
