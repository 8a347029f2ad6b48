/* A stand-in for VMware's libvixDiskLib, which may not be given away: the calls that nbdkit makes to read a disk, with the
 * names, arguments and structures that VMware documents, on the files of the lab's simulator. It refuses whoever does not
 * prove who they are, whoever does not know the server, and whoever does not open for reading alone.
 *
 * The file "lab" in its folder says what is right, a word and its value on each line: server, port, user, password,
 * thumbprint, and datastore NAME=FOLDER for each. What was asked for is added to the file "asked" there.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef uint64_t VixError;

enum { OK = 0, FAIL = 1, NOT_FOUND = 4, NOT_SUPPORTED = 6, NOT_THE_SERVER = 13, NOT_LET_IN = 14, READ_FAILED = 15, ASYNC = 25000 };
enum { UNBUFFERED = 1, SINGLE_LINK = 2, READ_ONLY = 4, SECTOR = 512 };

typedef struct {
  char *vmx_spec, *server, *thumbprint;
  long reserved1;
  int cred_type;
  union {
    struct { char *user, *password; } uid;
    struct { char *cookie, *user, *key; } session;
  } creds;
  uint32_t port, nfc_port;
  char *reserved3, reserved4[8];
  void *reserved5;
  struct { char *id, *datastore, *snapshot; } object;
  int spec_type;
} Params;

typedef struct {
  uint32_t bios[3], physical[3];
  uint64_t sectors;
  int adapter, links;
  char *parent, *uuid;
  uint32_t logical, physical_sector;
} Info;

typedef struct { char *snapshot; bool read_only; } Connection;
typedef struct { int fd; uint64_t sectors; } Disk;

static char *folder;

/* known finds the value of a word, of which there may be several, each beginning with prefix. */
static char *known (const char *word, const char *prefix)
{
  char *path, line[4096], *found = NULL;
  size_t w = strlen (word), p = strlen (prefix);
  FILE *f;

  if (asprintf (&path, "%s/lab", folder) == -1 || (f = fopen (path, "re")) == NULL)
    return NULL;
  while (!found && fgets (line, sizeof line, f)) {
    line[strcspn (line, "\n")] = 0;
    if (strncmp (line, word, w) == 0 && line[w] == ' ' && strncmp (line + w + 1, prefix, p) == 0)
      found = strdup (line + w + 1 + p);
  }
  fclose (f);
  free (path);
  return found;
}

static bool right (const char *word, const char *given)
{
  char *want = known (word, "");
  bool yes = want && given && strcmp (want, given) == 0;

  free (want);
  return yes;
}

static void note (const char *what, const char *value)
{
  char *path;
  FILE *f;

  if (asprintf (&path, "%s/asked", folder) == -1 || (f = fopen (path, "ae")) == NULL)
    return;
  fprintf (f, "%s %s\n", what, value ? value : "-");
  fclose (f);
  free (path);
}

VixError VixDiskLib_InitEx (uint32_t major, uint32_t minor, void *log, void *warn, void *panic, const char *dir, const char *config)
{
  (void) major, (void) minor, (void) log, (void) warn, (void) panic, (void) config;
  folder = strdup (dir);
  return folder ? OK : FAIL;
}

void VixDiskLib_Exit (void) { free (folder); folder = NULL; }

char *VixDiskLib_GetErrorText (VixError err, const char *unused)
{
  (void) unused;
  switch (err & 0xffff) {
  case NOT_FOUND: return strdup ("A file was not found");
  case NOT_SUPPORTED: return strdup ("The operation is not supported");
  case NOT_THE_SERVER: return strdup ("The server's certificate is another one");
  case NOT_LET_IN: return strdup ("Cannot log in: wrong user name or password");
  case READ_FAILED: return strdup ("Read error");
  }
  return strdup ("Unknown error");
}

void VixDiskLib_FreeErrorText (char *text) { free (text); }
Params *VixDiskLib_AllocateConnectParams (void) { return calloc (1, sizeof (Params)); }
void VixDiskLib_FreeConnectParams (Params *p) { free (p); }

VixError VixDiskLib_ConnectEx (const Params *p, char read_only, const char *snapshot, const char *transports, void **connection)
{
  char port[16];
  Connection *c;

  (void) transports;
  snprintf (port, sizeof port, "%u", p->port);
  if (!right ("server", p->server) || !right ("port", port) || !right ("thumbprint", p->thumbprint))
    return NOT_THE_SERVER;
  if (p->cred_type != 1 || !right ("user", p->creds.uid.user) || !right ("password", p->creds.uid.password))
    return NOT_LET_IN;
  if (!p->vmx_spec || strncmp (p->vmx_spec, "moref=", 6) != 0 || !read_only || p->spec_type != 0)
    return NOT_SUPPORTED;
  note ("vm", p->vmx_spec + 6);
  note ("snapshot", snapshot);
  if ((c = calloc (1, sizeof *c)) == NULL)
    return FAIL;
  *connection = c;
  return OK;
}

VixError VixDiskLib_Disconnect (void *connection) { free (connection); return OK; }

/* "[datastore] folder/disk.vmdk" is a text that names the file beside it, which has the content. */
VixError VixDiskLib_Open (void *connection, const char *path, uint32_t flags, void **handle)
{
  const char *end = strchr (path, ']'), *dot = strrchr (path, '.');
  char *prefix, *dir, *file;
  struct stat st;
  Disk *d;

  (void) connection;
  if (!(flags & READ_ONLY))
    return NOT_SUPPORTED;
  if (path[0] != '[' || !end || end[1] != ' ' || !dot || strcmp (dot, ".vmdk") != 0)
    return NOT_FOUND;
  note ("file", path);
  if (asprintf (&prefix, "%.*s=", (int) (end - path - 1), path + 1) == -1)
    return FAIL;
  dir = known ("datastore", prefix);
  free (prefix);
  if (!dir)
    return NOT_FOUND;
  if (asprintf (&file, "%s/%.*s-flat.vmdk", dir, (int) (dot - end - 2), end + 2) == -1)
    return FAIL;
  free (dir);
  if ((d = calloc (1, sizeof *d)) == NULL)
    return FAIL;
  d->fd = open (file, O_RDONLY | O_CLOEXEC);
  free (file);
  if (d->fd == -1 || fstat (d->fd, &st) == -1) {
    free (d);
    return NOT_FOUND;
  }
  d->sectors = st.st_size / SECTOR;
  *handle = d;
  return OK;
}

VixError VixDiskLib_Close (Disk *d) { close (d->fd); free (d); return OK; }
const char *VixDiskLib_GetTransportMode (Disk *d) { (void) d; return "nbdssl"; }

VixError VixDiskLib_GetInfo (Disk *d, Info **info)
{
  if ((*info = calloc (1, sizeof **info)) == NULL)
    return FAIL;
  (*info)->sectors = d->sectors;
  (*info)->links = 1;
  return OK;
}

void VixDiskLib_FreeInfo (Info *info) { free (info); }

/* Calls within the library are of functions of its own: others may have variables of the names that it shows. */
static VixError read_sectors (Disk *d, uint64_t start, uint64_t count, unsigned char *buf)
{
  size_t left = count * SECTOR;
  off_t at = start * SECTOR;

  while (left > 0) {
    ssize_t n = pread (d->fd, buf, left, at);
    if (n <= 0)
      return READ_FAILED;
    left -= n, at += n, buf += n;
  }
  return OK;
}

VixError VixDiskLib_Read (Disk *d, uint64_t start, uint64_t count, unsigned char *buf) { return read_sectors (d, start, count, buf); }

VixError VixDiskLib_ReadAsync (Disk *d, uint64_t start, uint64_t count, unsigned char *buf, void (*done) (void *, VixError), void *data)
{
  VixError err = read_sectors (d, start, count, buf);

  if (err != OK)
    return err;
  done (data, OK);
  return ASYNC;
}

VixError VixDiskLib_Wait (Disk *d) { (void) d; return OK; }
VixError VixDiskLib_Flush (Disk *d) { (void) d; return OK; }
VixError VixDiskLib_Write (Disk *d, uint64_t start, uint64_t count, const unsigned char *buf)
{
  (void) d, (void) start, (void) count, (void) buf;
  return NOT_SUPPORTED;
}
VixError VixDiskLib_WriteAsync (Disk *d, uint64_t start, uint64_t count, const unsigned char *buf, void (*done) (void *, VixError), void *data)
{
  (void) d, (void) start, (void) count, (void) buf, (void) done, (void) data;
  return NOT_SUPPORTED;
}
VixError VixDiskLib_Create (void *connection, const char *path, const void *params, void *progress, void *data)
{
  (void) connection, (void) path, (void) params, (void) progress, (void) data;
  return NOT_SUPPORTED;
}
