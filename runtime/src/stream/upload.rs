//! The items that a caller sends with its request, as the method that takes them gets at them.

use std::sync::Arc;

use super::inbox::Inbox;
use super::produce::ItemSink;
use crate::error::{Error, ErrorKind};
use crate::wire::status::{Code, Status};

/// The number of items that a caller may send before the method has read some.
pub(crate) const UPLOAD_WINDOW: u32 = 32;

/// The items of a caller that were not read yet. Their end is `Ok` if the caller has sent all of them.
pub(crate) type UploadInbox = Inbox<Result<(), Error>>;

/// The error of items that nobody sends or reads any more, for this reason.
pub(crate) fn upload_cancelled(reason: &str) -> Error {
    Error::new(ErrorKind::Status(Status::new(Code::Cancelled, reason)))
}

/// The stream of a request, as its method has it.
pub(crate) trait ServedStream: Send + Sync {
    /// The way of the items that the method returns.
    fn items(&self) -> &dyn ItemSink;

    /// Opens the stream for the items of the caller. `None` if it sends none, or if they were accepted before.
    fn accept(self: Arc<Self>) -> Option<AcceptedUpload>;
}

/// The items that a caller sends, once they are accepted.
pub(crate) struct AcceptedUpload {
    pub(crate) inbox: Arc<UploadInbox>,
    pub(crate) control: Arc<dyn UploadControl>,
}

/// The way back to a caller that sends items.
pub(crate) trait UploadControl: Send + Sync {
    /// Allows so many items in total.
    fn grant(&self, total: u64);

    /// Tells the caller that no further item is read.
    fn stop(&self);

    /// Ends the request with a status, because of an item.
    fn refuse(&self, status: Status);
}
