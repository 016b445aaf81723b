/*
 * Checkpoint and restart: a chain of pieces, window files, the names log and the lane's head, with the aggregator killed at
 * any step, twice.
 *
 * What is shown: a restart finds all that it needs, whatever step the death came at; in the end each record stands once in
 * the windows; the lane never frees what was not committed; no file is left that nothing mentions.
 *
 *   step here                         in the code
 *   drain                             pool_round: into the open window, in memory
 *   close                             close_window (aggregator/pool.c): the open window joins the closed ones, and where
 *                                     there are too many, two become a new one (windows_close_one)
 *   names                             keep_names, store_append: the log is cut to its committed length and appended to
 *   windows                           keep_windows, store_write: a closed window that has no file yet gets one
 *   piece: whole                      store_chain_begin: a chain of this one piece, renamed into place
 *   piece: half, then all             store_chain_append: a death in the middle leaves half of it, which is told by its
 *                                     length or CRC and ignored
 *   unlink                            drop_windows: of those that the commit mentions no more
 *   head                              worker_store_heads, from pool_after_checkpoint
 *   load                              checkpoint_load: the chain, all its whole pieces in order; the names log up to what
 *                                     the last of them counts; the files of the windows in the first; the others are swept
 *
 * A record is one bit. It also stands for its name, which has to be in the log before a piece holds the record. At most
 * one closed window is kept apart here, so that closing another merges two.
 *
 * Broken variants: BREAK_HEAD_FIRST, BREAK_NAMES_LATE, BREAK_WINDOW_LATE, BREAK_DROP_EARLY, BREAK_HALF_IS_WHOLE,
 * BREAK_APPEND_TO_HALF (a new life goes on with the chain it found), BREAK_NO_SWEEP, BREAK_DELTA_ABSOLUTE (a later piece
 * holds all of the open window again), BREAK_CLOSE_APPENDED (the first piece after a window was closed is appended).
 */
#define RECORDS 3
#define LANE 2 /* records that the lane has room for */
#define KILLS 2
#define IDS 6    /* window files ever written */
#define PIECES 4 /* in one chain; then it is begun anew */

byte tail, head;
byte kills;
bool kill_now;

/* On disk. A later piece holds what it adds to the open window. */
typedef piece {
    byte position, open, names, window, next_id;
    bool half
}
piece chain[PIECES];
byte pieces;      /* with a half one at its end */
byte names;       /* length of the names log */
byte file[IDS];   /* a window file's records; 0: there is none */

/* In memory. */
byte position, open, told; /* `told`: what of the open window stands in the chain */
byte closed, closed_id;    /* the closed window; id 0: it has no file yet */
byte dropped, next_id;     /* file to be unlinked; id of the next one */
byte kept_names, i;
bool whole, have_chain;

inline load()
{
    atomic {
        position = 0;
        open = 0;
        closed = 0;
        closed_id = 0;
        dropped = 0;
        next_id = 1;
        kept_names = 0;
        i = 0;
        do
#ifdef BREAK_HALF_IS_WHOLE
        :: i < pieces ->
#else
        :: i < pieces && !chain[i].half ->
#endif
            if
            :: i == 0 && chain[0].window != 0 ->
                closed_id = chain[0].window;
                closed = file[closed_id];
                assert(closed != 0) /* its file is there */
            :: else
            fi;
            assert((open & chain[i].open) == 0 && (closed & chain[i].open) == 0);
            open = open | chain[i].open;
            position = chain[i].position;
            kept_names = chain[i].names;
            next_id = chain[i].next_id;
            i++
        :: else -> break
        od;
        assert(kept_names <= names);                 /* the log is as long as was counted */
        assert((open | closed) >> kept_names == 0);  /* and long enough */
        assert(head <= position);                    /* the lane still holds what is to be read again */
        told = open;
#ifdef BREAK_APPEND_TO_HALF
        whole = pieces == 0;
#else
        whole = true;
#endif
        i = 1;
        do
        :: i < IDS ->
#ifndef BREAK_NO_SWEEP
            if
            :: i != closed_id -> file[i] = 0
            :: else
            fi;
#endif
            i++
        :: else -> break
        od;
        i = 0
    }
}

inline keep_window()
{
    if
    :: closed != 0 && closed_id == 0 ->
        file[next_id] = closed;
        atomic { closed_id = next_id; next_id++ }
    :: else
    fi
}

inline unlink()
{
    if
    :: dropped != 0 ->
        file[dropped] = 0;
        dropped = 0
    :: else
    fi
}

inline keep()
{
#ifdef BREAK_DROP_EARLY
    unlink();
#endif
#ifndef BREAK_NAMES_LATE
    names = kept_names; /* cut */
    names = position;
#endif
#ifndef BREAK_WINDOW_LATE
    keep_window();
#endif
#ifdef BREAK_HEAD_FIRST
    head = position;
#endif
    if
    :: whole || pieces == PIECES ->
        d_step {
            pieces = 1;
            chain[0].position = position;
            chain[0].open = open;
            chain[0].names = position;
#ifdef BREAK_WINDOW_LATE
            chain[0].window = (closed != 0 && closed_id == 0 -> next_id : closed_id);
#else
            chain[0].window = closed_id;
#endif
            chain[0].next_id = next_id;
            chain[0].half = false;
            i = 1;
            do
            :: i < PIECES ->
                chain[i].position = 0;
                chain[i].open = 0;
                chain[i].names = 0;
                chain[i].next_id = 0;
                chain[i].half = false;
                i++
            :: else -> break
            od;
            i = 0
        }
    :: else ->
        d_step {
            chain[pieces].position = position;
            chain[pieces].half = true;
            pieces++
        };
        d_step {
#ifdef BREAK_DELTA_ABSOLUTE
            chain[pieces - 1].open = open;
#else
            chain[pieces - 1].open = open & ~told;
#endif
            chain[pieces - 1].names = position;
            chain[pieces - 1].next_id = next_id;
            chain[pieces - 1].half = false
        }
    fi;
    atomic { told = open; kept_names = position; whole = false };
#ifdef BREAK_NAMES_LATE
    names = position;
#endif
#ifdef BREAK_WINDOW_LATE
    keep_window();
#endif
#ifndef BREAK_DROP_EARLY
    unlink();
#endif
#ifndef BREAK_HEAD_FIRST
    head = position;
#endif
}

active proctype worker()
{
    do
    :: tail < RECORDS && tail - head < LANE -> tail++
    :: tail == RECORDS -> break
    od
}

active proctype aggregator()
{
begin:
    {
        load();
        do
        :: d_step { position < tail -> open = open | (1 << position); position++ }
        :: d_step { open != 0 && next_id < IDS - 1 ->
            if
            :: closed != 0 && closed_id != 0 -> dropped = closed_id
            :: else
            fi;
            closed = closed | open;
            closed_id = 0;
            open = 0;
            told = 0;
#ifndef BREAK_CLOSE_APPENDED
            whole = true
#endif
            }
        :: true -> keep()
        :: position == RECORDS && kept_names == RECORDS && (open & ~told) == 0 && !whole && (closed == 0 || closed_id != 0) ->
            break
        od
    } unless { kill_now };
    if
    :: kill_now -> kill_now = false; goto begin
    :: else
    fi;
    d_step {
        i = 1;
        do
        :: i < IDS -> assert(file[i] == 0 || i == closed_id); i++
        :: else -> break
        od
    };
    load(); /* what the next life would find */
    assert((open & closed) == 0 && (open | closed) == (1 << RECORDS) - 1);
}

/* Two deaths, each at any step. */
active proctype killer()
{
    do
    :: kills < KILLS && !kill_now -> atomic { kills++; kill_now = true }
    :: break
    od
}
